import { durationFlag, stringFlag } from "../../kit/flags.ts";
import { humanDuration, humanSize } from "../../kit/format.ts";
import { logLine } from "../../kit/log-line.ts";
import { tabwrite } from "../../kit/tabwriter.ts";
import { ctrCommand } from "../define.ts";
import { TAB_TABLE } from "./list.ts";

/** `ctr content active` */
export const command = ctrCommand({
  argsUsage: "[flags] [<regexp>]",
  description: "display the ongoing transfers",
  flags: {
    timeout: durationFlag("timeout", "total timeout for fetch", { aliases: ["t"], env: ["CONTAINERD_FETCH_TIMEOUT"] }),
    root: stringFlag("root", "path to content store root", { initial: "/tmp/content" }),
  },
  action: async ({ args, flags, given, globals, io }) => {
    const [match = ""] = args;
    if (given.has("root")) {
      io.stderr.write(logLine("warning", "--root has no effect: the daemon is asked, which knows its own folders"));
    }
    await using session = await globals.connect();
    const { client } = session;
    const context =
      flags.timeout > 0
        ? { ...session.context, signal: AbortSignal.any([session.context.signal, AbortSignal.timeout(flags.timeout)]) }
        : session.context;
    const filters = match === "" ? [] : [`ref~=${JSON.stringify(match)}`];
    const active = await client.content.listStatuses(context, filters);
    const rows = active.map(
      ({ ref, offset, startedAt }) =>
        `${ref}\t${humanSize(offset)}\t${humanDuration(Date.now() - startedAt.getTime())}\t\n`,
    );
    io.stdout.write(tabwrite(`REF\tSIZE\tAGE\t\n${rows.join("")}`, TAB_TABLE));
    return 0;
  },
});
