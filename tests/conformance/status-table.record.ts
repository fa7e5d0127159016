// Prints what a daemon tells clients in each case, as the JSON of status-table.json. `bun status-table.record.ts debian`.
import { ClassifiedError } from "@stevedore/base";
import { statusOf } from "@stevedore/wire/status";
import { Daemon, type Maker } from "../harness/daemon.ts";
import { CASES, KINDS } from "./status-cases.ts";
import { type Told, World } from "./status-world.ts";

/** Runs a case and says what its client was told. */
export async function tell(world: World, run: (world: World) => Promise<unknown>): Promise<Told> {
  try {
    await run(world);
    return { code: 0 };
  } catch (error) {
    // Anything else is a fault of the case.
    if (!(error instanceof ClassifiedError)) throw error;
    const { code, message } = statusOf(error);
    return { code, message: world.shown(message) };
  }
}

async function main(maker: Maker): Promise<void> {
  await using daemon = await Daemon.start({ maker });
  const found: Record<string, Told> = {};
  for (const [method, cases] of Object.entries(CASES)) {
    for (const kind of KINDS) {
      const run = cases[kind];
      if (typeof run === "string") continue;
      await using world = new World(daemon);
      const key = `${method} ${kind}`;
      try {
        found[key] = await tell(world, run);
      } catch (error) {
        process.stderr.write(`${key}: ${String(error)}\n`);
      }
      for (const problem of await daemon.clear(world.namespace)) process.stderr.write(`${key}: left ${problem}\n`);
    }
  }
  process.stdout.write(`${JSON.stringify(found, undefined, 2)}\n`);
}

if (import.meta.main) await main(process.argv[2] === "ours" ? "ours" : "debian");
