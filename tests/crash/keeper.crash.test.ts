// Everybody who serves a container is killed, or stopped, at every phase of its life, in an order that the seed decides.
import { expect, test } from "bun:test";
import { LANE_MS, randomFrom, SEED } from "./leftovers.ts";
import { PHASES, type Phase, PhaseWorld, VICTIMS, type Victim } from "./phases.ts";

/** What the last scenario may take. */
const LIMIT_MS = 240_000;
/** From here on the lane is at its length: it must have killed somebody this often at each phase, on both kernels together. */
const LONG_MS = 15 * 60_000;
const LEAST_KILLS = 20;

interface Scenario {
  readonly phase: Phase;
  readonly victim: Victim;
}

/** Scenarios of both kernels. */
const killed = new Map<Phase, number>();

/** Shuffles by what the seed gives. */
function shuffled<T>(all: readonly T[], random: () => number): T[] {
  return all
    .map((one) => ({ one, at: random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ one }) => one);
}

/** All of them once, each phase's turn as often as the others' wherever the time ends. */
function inTurns(all: readonly Scenario[], random: () => number): Scenario[] {
  const phases = [...Map.groupBy(all, ({ phase }) => phase).values()].map((some) => shuffled(some, random));
  return VICTIMS.flatMap((_, turn) =>
    shuffled(phases, random).flatMap((some) => {
      const one = some[turn];
      return one === undefined ? [] : [one];
    }),
  );
}

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
          for (const { phase, victim } of inTurns(all, random)) {
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
            killed.set(phase, (killed.get(phase) ?? 0) + 1);
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

test("F31: at its length the lane kills somebody at least 20 times at each phase", () => {
  const counts = PHASES.map((phase) => ({ phase, kills: killed.get(phase) ?? 0 }));
  process.stdout.write(`kills at each phase: ${counts.map(({ phase, kills }) => `${phase} ${kills}`).join(", ")}\n`);
  const least = LANE_MS >= LONG_MS && process.env["PHASE"] === undefined ? LEAST_KILLS : 0;
  expect(counts.filter(({ kills }) => kills < least)).toEqual([]);
});
