// What a client feels of a daemon: how long its calls take, as figures of many of them, and whether they take longer in one situation than in another.
import { backgroundContext, type Client } from "@stevedore/sdk";
import { NULL_IO } from "@stevedore/sdk/local/task-streams";
import { jsonAny, PROCESS_TYPE_URL } from "@stevedore/sdk/spec/any";
import { randomFrom, SEED } from "../crash/leftovers.ts";

const SIGCONT = 18;

/** The part of calls that a p99 leaves out. */
const P99 = 0.99;
/** How often the two situations of each cycle are exchanged at random, to see what chance makes of a ratio. */
const DRAWS = 5_000;
/** A difference that chance gives less often than this is one. */
const CHANCE = 0.001;

/** The value that the given part of the values does not exceed. */
export function quantile(values: readonly number[], part: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? Number.NaN;
}

/** Milliseconds that calls took, by what they were. */
export class Samples {
  readonly #values = new Map<string, number[]>();

  /** Does something, and keeps how long it took. */
  async time(what: string, work: () => Promise<unknown>): Promise<void> {
    const began = performance.now();
    await work();
    this.add(what, performance.now() - began);
  }

  add(what: string, ms: number): void {
    const values = this.#values.get(what) ?? [];
    this.#values.set(what, values);
    values.push(ms);
  }

  of(what: string): readonly number[] {
    return this.#values.get(what) ?? [];
  }

  get names(): readonly string[] {
    return [...this.#values.keys()];
  }

  /** Takes the values of another one too. */
  merge(other: Samples): this {
    for (const what of other.names) for (const ms of other.of(what)) this.add(what, ms);
    return this;
  }

  /** As a line: median, p99 and count of each. */
  toString(): string {
    const one = ([what, values]: readonly [string, readonly number[]]): string =>
      `${what} p50 ${quantile(values, 0.5).toFixed(1)} p99 ${quantile(values, 0.99).toFixed(1)} ms (${values.length})`;
    return [...this.#values].map(one).join(", ");
  }
}

/** Calls in two situations that took turns: whatever else the machine did has hit both. */
export interface Cycle {
  readonly usual: Samples;
  readonly beside: Samples;
}

/** How the p99 of a call in one situation compares with its usual one. */
export interface Comparison {
  readonly what: string;
  /** Milliseconds. */
  readonly usual: number;
  readonly beside: number;
  readonly ratio: number;
  /** Calls of both situations that took longer than what the p99 may be. */
  readonly over: { readonly usual: number; readonly beside: number };
  /**
   * How often chance alone would give so many more of them beside the others: were the situation of no account, the two halves of
   * each cycle could be exchanged. Calls of one half stay together, since what slows one slows its neighbours. A machine so slow that there
   * are few cycles makes everything likely.
   */
  readonly chance: number;
}

/** What a comparison allows. */
export interface Allowed {
  /** What the p99 may be, as a factor of the usual one. */
  readonly factor: number;
  /** Milliseconds that are as good as none: a p99 of one millisecond doubles by chance. */
  readonly leastMs: number;
}

/** A call's time with where it comes from. */
interface Timed {
  readonly ms: number;
  readonly cycle: number;
  readonly isBeside: boolean;
}

/** Compares the p99 of a call. */
export function compareP99(cycles: readonly Cycle[], what: string, { factor, leastMs }: Allowed): Comparison {
  const timed = cycles
    .flatMap(({ usual, beside }, cycle) => [
      ...usual.of(what).map((ms): Timed => ({ ms: Math.max(ms, leastMs), cycle, isBeside: false })),
      ...beside.of(what).map((ms): Timed => ({ ms: Math.max(ms, leastMs), cycle, isBeside: true })),
    ])
    .toSorted((a, b) => b.ms - a.ms);
  const counts = cycles.map(({ usual, beside }) => [usual.of(what).length, beside.of(what).length] as const);
  const look = (exchanged: readonly boolean[]): Pick<Comparison, "usual" | "beside" | "over"> => {
    const found = p99s(timed, counts, exchanged);
    return { ...found, over: countOver(timed, found.usual * factor, exchanged) };
  };
  const found = look(cycles.map(() => false));
  const more = ({ over }: Pick<Comparison, "over">): number => over.beside - over.usual;
  const random = randomFrom(SEED);
  let asMany = 0;
  for (let draw = 0; draw < DRAWS; draw += 1)
    if (more(look(cycles.map(() => random() < 0.5))) >= more(found)) asMany += 1;
  return { what, ...found, ratio: found.beside / found.usual, chance: asMany / DRAWS };
}

/** Comparisons that found more than is allowed, and not by chance. */
export function tooSlow(comparisons: readonly Comparison[]): readonly Comparison[] {
  return comparisons.filter(({ chance }) => chance < CHANCE);
}

/** The p99 of both situations, with the halves of some cycles exchanged. `values` begins with the largest. */
function p99s(
  values: readonly Timed[],
  counts: readonly (readonly [usual: number, beside: number])[],
  exchanged: readonly boolean[],
): { readonly usual: number; readonly beside: number } {
  const sizes = { usual: 0, beside: 0 };
  for (const [cycle, [usual, beside]] of counts.entries()) {
    sizes.usual += exchanged[cycle] === true ? beside : usual;
    sizes.beside += exchanged[cycle] === true ? usual : beside;
  }
  const above = (size: number): number => size - Math.min(size - 1, Math.floor(size * P99));
  const left = { usual: above(sizes.usual), beside: above(sizes.beside) };
  const found = { usual: Number.NaN, beside: Number.NaN };
  for (const { ms, cycle, isBeside } of values) {
    const side = isBeside === (exchanged[cycle] === true) ? "usual" : "beside";
    left[side] -= 1;
    if (left[side] === 0) found[side] = ms;
    if (left.usual <= 0 && left.beside <= 0) break;
  }
  return found;
}

/** How many calls of both situations took longer than the limit. `values` begins with the largest. */
function countOver(values: readonly Timed[], limitMs: number, exchanged: readonly boolean[]): Comparison["over"] {
  const over = { usual: 0, beside: 0 };
  for (const { ms, cycle, isBeside } of values) {
    if (ms <= limitMs) break;
    over[isBeside === (exchanged[cycle] === true) ? "usual" : "beside"] += 1;
  }
  return over;
}

/** Comparisons of all calls of the cycles, as text for whoever reads the log. */
export function told(comparisons: readonly Comparison[]): string {
  const one = ({ what, usual, beside, ratio, over, chance }: Comparison): string =>
    `${what} p99 ${usual.toFixed(1)} -> ${beside.toFixed(1)} ms, ${ratio.toFixed(2)} times; ` +
    `too long ${over.usual} -> ${over.beside} (chance ${chance.toFixed(3)})`;
  return comparisons.map(one).join("\n    ");
}

/** An exec of `true` in a running container from its creation to its removal, and a signal to it that changes nothing. */
export async function execAndKill(
  client: Client,
  samples: Samples,
  of: { readonly namespace: string; readonly id: string; readonly round: number },
): Promise<void> {
  const { namespace, id, round } = of;
  const context = backgroundContext({ namespace });
  const spec = jsonAny(PROCESS_TYPE_URL, { user: { uid: 0, gid: 0 }, args: ["true"], env: ["PATH=/bin"], cwd: "/" });
  const ref = { containerId: id, execId: `e${round}-${Date.now()}` };
  await samples.time("exec", async () => {
    await client.tasks.exec(context, { ...ref, io: NULL_IO, spec });
    const exited = client.tasks.wait(context, ref);
    await client.tasks.start(context, ref);
    await exited;
    await client.tasks.delete(context, ref);
  });
  await samples.time("kill", () =>
    client.tasks.kill(context, { containerId: id, execId: "" }, { number: SIGCONT, all: false }),
  );
}
