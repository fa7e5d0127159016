// What a client feels of a daemon: how long its calls take, as figures of many of them.
import { backgroundContext, type Client } from "@stevedore/sdk";
import { NULL_IO } from "@stevedore/sdk/local/task-streams";
import { jsonAny, PROCESS_TYPE_URL } from "@stevedore/sdk/spec/any";

const SIGCONT = 18;

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

  /** As a line: median, p99 and count of each. */
  toString(): string {
    const one = ([what, values]: readonly [string, readonly number[]]): string =>
      `${what} p50 ${quantile(values, 0.5).toFixed(1)} p99 ${quantile(values, 0.99).toFixed(1)} ms (${values.length})`;
    return [...this.#values].map(one).join(", ");
  }
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
