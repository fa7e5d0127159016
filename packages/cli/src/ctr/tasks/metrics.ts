import { classified } from "@stevedore/base";
import { stringFlag } from "../../kit/flags.ts";
import { tabwrite } from "../../kit/tabwriter.ts";
import { ctrCommand } from "../define.ts";
import { indentJson } from "../json.ts";
import { existingContainer } from "./find.ts";

/** `tabwriter.NewWriter(os.Stdout, 1, 8, 4, ' ', 0)` */
const TABLE = { minWidth: 1, tabWidth: 8, padding: 4, padChar: " " };

/** `ctr tasks metrics` */
export const command = ctrCommand({
  argsUsage: "CONTAINER",
  flags: { format: stringFlag("format", '"table" or "json"', { initial: "table" }) },
  action: async ({ args, flags, globals, io }) => {
    if (flags.format !== "table" && flags.format !== "json") {
      throw new Error(`invalid format ${JSON.stringify(flags.format)}, expected "table" or "json"`);
    }
    await using session = await globals.connect();
    const { client, context } = session;
    const id = await existingContainer(session, args[0]);
    const [metric] = await client.tasks.metrics(context, [`id==${id}`]);
    if (metric === undefined) throw classified("failed-precondition", "no metrics received: failed precondition");
    const { metricRows } = await import("./metric-rows.ts");
    // Refuses what are no figures of cgroups, whatever the format.
    const shown = await metricRows(metric.data);
    if (flags.format === "json") {
      const { anyToJson } = await import("@stevedore/sdk/any-json");
      io.stdout.write(`${indentJson(await anyToJson(metric.data), "  ")}\n`);
      return 0;
    }
    const seconds = Math.floor(metric.timestamp.getTime() / 1000);
    const nanos = metric.nanos ?? (metric.timestamp.getTime() % 1000) * 1_000_000;
    const rows = shown.map(([name, value]) => `${name}\t${value}\t\n`);
    io.stdout.write(tabwrite(`ID\tTIMESTAMP\t\n${metric.id}\tseconds:${seconds} nanos:${nanos}\t\n\n`, TABLE));
    io.stdout.write(tabwrite(`METRIC\tVALUE\t\n${rows.join("")}`, TABLE));
    return 0;
  },
});
