// Random lives of tasks against a model: the same steps on Debian's containerd, where the model must hold too, and on ours, which must
// give what the model says, the peer's classes of refusals, and the events of it all. A sequence that fails is
// shrunk and printed; it then belongs into KNOWN.
import { afterAll, expect, test } from "bun:test";
import { messageOf } from "@stevedore/base";
import * as fc from "fast-check";
import { Daemon, type Maker } from "../harness/daemon.ts";
import { CONTAINERS, type DaemonStep, Machine, Model, type Step } from "../harness/task-machine.ts";

const SEED = Number(process.env["SEED"] || "1");
/** The lane's time is divided among its files; less than this shows nothing, for a daemon has to be started. */
const LEAST_MS = 20_000;
const TIME_MS = Math.max(Number(process.env["MINUTES"] || "0") * 60_000, LEAST_MS);
/** As tests/harness/row.ts: nothing of ours takes part in it. */
const PEER_ATTEMPTS = 3;
/** Steps of one sequence. */
const LONGEST = 14;

/** Found by this test once, or worth doing every time. */
const KNOWN: readonly (readonly Step[])[] = [
  [
    ["create", "a"],
    ["start", "a"],
    ["exec", "a"],
    ["exec-start", "a"],
    ["exit", "a", 3],
    ["exec-delete", "a"],
    ["delete", "a"],
  ],
  [
    ["create", "a"],
    ["start", "a"],
    ["exec", "a"],
    ["exec-start", "a"],
    ["crash"],
    ["exec-exit", "a", 4],
    ["exec-delete", "a"],
    ["kill", "a"],
    ["delete", "a"],
  ],
  [
    ["create", "a"],
    ["crash"],
    ["start", "a"],
    ["pause", "a"],
    ["crash"],
    ["resume", "a"],
    ["exit", "a", 9],
    ["restart"],
    ["delete", "a"],
    ["create", "a"],
    ["start", "a"],
  ],
  [
    ["start", "a"],
    ["kill", "a"],
    ["delete", "a"],
    ["pause", "a"],
    ["resume", "a"],
    ["exec", "a"],
    ["create", "a"],
    ["create", "a"],
    ["pause", "a"],
    ["start", "a"],
    ["start", "a"],
    ["delete", "a"],
    ["resume", "a"],
  ],
  [
    ["create", "a"],
    ["create", "b"],
    ["start", "a"],
    ["start", "b"],
    ["shim-death"],
    ["exec", "b"],
    ["exec-start", "b"],
    ["shim-death"],
    ["exit", "a", 3],
    ["exec-exit", "b", 5],
    ["shim-death"],
    ["pause", "b"],
    ["shim-death"],
    ["crash"],
    ["resume", "b"],
    ["kill", "b"],
    ["delete", "a"],
  ],
  [
    ["create", "a"],
    ["shim-death"],
    ["create", "b"],
    ["create", "b"],
    ["resume", "b"],
    ["pause", "b"],
    ["start", "b"],
    ["shim-death"],
  ],
];

/** Steps of the daemon's. A shim's death means something on ours only: there another one takes its tasks over. */
const DAEMON_STEPS: readonly DaemonStep[] = [["restart"], ["crash"], ["shim-death"], ["shim-death"]];

const PLAIN = [
  "create",
  "start",
  "kill",
  "term",
  "pause",
  "resume",
  "delete",
  "exec",
  "exec-start",
  "exec-kill",
  "exec-delete",
] as const;
const container = fc.constantFrom(...CONTAINERS);
const code = fc.integer({ min: 0, max: 255 });

/** Any step, often one that leads on: a sequence of steps that are all refused shows little. */
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 12, arbitrary: fc.tuple(fc.constantFrom(...PLAIN), container) },
  { weight: 5, arbitrary: fc.tuple(fc.constantFrom("create", "start", "exec", "exec-start"), container) },
  { weight: 4, arbitrary: fc.tuple(fc.constantFrom("exit", "exec-exit"), container, code) },
  { weight: 2, arbitrary: fc.constantFrom(...DAEMON_STEPS) },
);

/** A sequence without the steps that the model leaves out. */
const sequence = fc.array(step, { minLength: 4, maxLength: LONGEST * 2 }).map((steps) => {
  const model = new Model();
  return steps.filter((one) => model.apply(one) !== "skip").slice(0, LONGEST);
});

const cleanup = new AsyncDisposableStack();
afterAll(() => cleanup.disposeAsync(), 60_000);

interface Machines {
  readonly peer: Machine;
  readonly ours: Machine;
}

async function machineOf(maker: Maker): Promise<Machine> {
  const daemon = cleanup.use(await Daemon.start({ maker }));
  // Its cgroups are the machine's: the pid alone is not the only one in a process namespace.
  const namespace = `stvtasks${process.pid}-${Date.now()}`;
  daemon.use(`${namespace}-${maker}`);
  return cleanup.use(await Machine.on(daemon, `${namespace}-${maker}`));
}

/** Whether the model is right is asked of the peer, and one good answer is the answer. */
async function onPeer(machine: Machine, steps: readonly Step[]): Promise<string[]> {
  for (let left = PEER_ATTEMPTS; ; left -= 1) {
    try {
      return await machine.run(steps);
    } catch (error) {
      if (left === 1) throw error;
    }
  }
}

/** @returns what is wrong with a sequence, if anything. Both daemons are at it at once. */
async function failureOf({ peer, ours }: Machines, steps: readonly Step[]): Promise<string | undefined> {
  const [theirs, mine] = await Promise.allSettled([onPeer(peer, steps), ours.run(steps)]);
  if (theirs.status === "rejected") return `peer: ${messageOf(theirs.reason)}`;
  if (mine.status === "rejected") return `ours: ${messageOf(mine.reason)}`;
  const [wanted, found] = [theirs.value.join("\n"), mine.value.join("\n")];
  return wanted === found ? undefined : `refusals differ\npeer:\n${wanted}\nours:\n${found}`;
}

test(
  `F34: random lives of tasks are as the model and the peer say, SEED=${SEED}`,
  async () => {
    const machines = { peer: await machineOf("debian"), ours: await machineOf("ours") };
    for (const steps of KNOWN) {
      const failure = await failureOf(machines, steps);
      if (failure !== undefined) throw new Error(`known sequence ${JSON.stringify(steps)}:\n${failure}`);
    }
    let runs = 0;
    let last = "";
    const property = fc.asyncProperty(sequence, async (steps) => {
      runs += 1;
      const failure = await failureOf(machines, steps);
      if (failure === undefined) return;
      last = failure;
      throw new Error(failure);
    });
    const found = await fc.check(property, {
      seed: SEED,
      numRuns: 1_000_000,
      interruptAfterTimeLimit: TIME_MS,
      markInterruptAsFailure: false,
    });
    process.stderr.write(`tasks: ${runs} sequences, SEED=${SEED}\n`);
    if (found.failed) {
      throw new Error(
        `a sequence fails (SEED=${SEED}), add it to KNOWN:\n  ${JSON.stringify(found.counterexample?.[0])},\n${last}`,
      );
    }
    expect(runs).toBeGreaterThan(0);
  },
  TIME_MS + 240_000,
);
