// Everybody who serves a container is killed, or stopped, at every phase of its life, in an order that the seed decides.
import { test } from "bun:test";
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
      await using world = await PhaseWorld.start({ oldKernel });
      const all = PHASES.flatMap((phase) => VICTIMS.map((victim) => ({ phase, victim })))
        // Nobody is left to know an exit that comes while all three are gone.
        .filter(({ phase, victim }) => !(oldKernel && victim === "all" && phase === "exit"));
      let done = 0;
      const only = process.env["PHASE"];
      do {
        const order = all.map((one) => ({ ...one, at: random() })).sort((a, b) => a.at - b.at);
        for (const { phase, victim } of order) {
          if (only !== undefined && only !== `${phase}/${victim}`) continue;
          await world.scenario(phase, victim);
          done += 1;
          if (performance.now() > end && only === undefined) break;
        }
      } while (performance.now() < end);
      process.stdout.write(`${done} scenarios, seed ${SEED}\n`);
    },
    LANE_MS + LIMIT_MS,
  );
}
