// Everybody who serves a container is killed, or stopped, at every phase of its life, in an order that the seed decides.
import { expect, test } from "bun:test";
import { LANE_MS, randomFrom, SEED } from "./leftovers.ts";
import { PHASES, PhaseWorld, VICTIMS } from "./phases.ts";

/** What the last scenario may take. */
const LIMIT_MS = 240_000;

const KERNELS = [
  { what: "exits kept by the kernel", oldKernel: false },
  { what: "exits kept by the keeper alone", oldKernel: true },
];

for (const { what, oldKernel } of KERNELS) {
  test(
    `F31: containers outlive daemon, shim, keeper and runc, ${what}`,
    async () => {
      const random = randomFrom(SEED);
      const end = performance.now() + LANE_MS / KERNELS.length;
      const only = process.env["PHASE"];
      const all = PHASES.flatMap((phase) => VICTIMS.map((victim) => ({ phase, victim })))
        .filter(({ phase, victim }) => only === undefined || RegExp(only).test(`${phase}/${victim}`))
        // Nobody is left to know an exit that comes while all three are gone.
        .filter(({ phase, victim }) => !(oldKernel && victim === "all" && phase === "exit"));
      let world = await PhaseWorld.start({ oldKernel });
      const failed: string[] = [];
      let done = 0;
      const counts = new Map<string, number>();
      try {
        do {
          const order = all.map((one) => ({ ...one, at: random() })).sort((a, b) => a.at - b.at);
          for (const { phase, victim } of order) {
            try {
              await world.scenario(phase, victim);
            } catch (error) {
              failed.push(`${phase}/${victim}: ${String(error)}`);
              process.stderr.write(`--- ${phase}/${victim}: ${String(error)}\n${await world.told()}\n`);
              await world[Symbol.asyncDispose]();
              world = await PhaseWorld.start({ oldKernel });
            }
            done += 1;
            counts.set(phase, (counts.get(phase) ?? 0) + 1);
            if (performance.now() > end) break;
          }
        } while (performance.now() < end);
      } finally {
        await world[Symbol.asyncDispose]();
      }
      const byPhase = PHASES.map((phase) => `${phase} ${counts.get(phase) ?? 0}`).join(", ");
      process.stdout.write(`${done} scenarios, ${what}, seed ${SEED}: ${byPhase}\n`);
      expect(failed).toEqual([]);
    },
    LANE_MS + LIMIT_MS,
  );
}
