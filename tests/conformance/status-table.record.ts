// Prints what a daemon tells clients in each case, as the JSON of status-table.json:
//   bun tests/conformance/status-table.record.ts debian|ours [part of a method's name]
import { Daemon, type Maker } from "../harness/daemon.ts";
import { CASES, KINDS } from "./status-cases.ts";
import { type Told, World } from "./status-world.ts";

async function main(maker: Maker, only: string): Promise<void> {
  await using daemon = await Daemon.start({ maker });
  const found: Record<string, Told> = {};
  for (const [method, cases] of Object.entries(CASES)) {
    for (const kind of KINDS) {
      const run = cases[kind];
      const key = `${method} ${kind}`;
      if (typeof run === "string" || !key.includes(only)) continue;
      try {
        await using world = await World.open(daemon);
        found[key] = await world.tell(run);
      } catch (error) {
        process.stderr.write(`${key}: ${String(error)}\n`);
      }
    }
  }
  process.stdout.write(`${JSON.stringify(found, undefined, 2)}\n`);
}

await main(process.argv[2] === "ours" ? "ours" : "debian", process.argv[3] ?? "");
