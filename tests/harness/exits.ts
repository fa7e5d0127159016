// Containers that print and exit at once: every byte and every code must arrive, and each event exactly once and in its order.
import { expect } from "bun:test";
import { readFile } from "node:fs/promises";
import type { Client } from "@stevedore/sdk/client";
import { connectClient } from "@stevedore/sdk/connect";
import { logUriIo } from "@stevedore/sdk/local/task-streams";
import type { Envelope } from "@stevedore/sdk/types";
import { decodeMessage } from "@stevedore/wire/codec";
import { TaskExecAddedSchema, TaskExitSchema } from "@stevedore/wire/gen/light/containerd/events/task_pb";
import { Clones } from "./clones.ts";
import { eachOf, Gate } from "./gate.ts";
import { eventually } from "./process.ts";
import type { Stage } from "./row.ts";

/** A client of the SDK for as long as `use` takes. */
export async function withClient<T>(t: Stage, use: (client: Client) => Promise<T>): Promise<T> {
  const client = connectClient({ address: t.daemon.address });
  try {
    return await use(client);
  } finally {
    await client[Symbol.asyncDispose]();
  }
}

/** A task's event as a word: `create`, `exit`, `exit e` for the end of exec e. */
export interface TaskWord {
  readonly container: string;
  readonly word: string;
}

/** The word of an event; undefined for those that are about no task. */
export function taskWord({ topic, event }: Envelope): TaskWord | undefined {
  if (!topic.startsWith("/tasks/")) return undefined;
  const word = topic.slice("/tasks/".length);
  if (word === "exit") {
    const { containerId, id } = decodeMessage(TaskExitSchema, event.value);
    return { container: containerId, word: id === containerId ? word : `${word} ${id}` };
  }
  // All messages of tasks begin with the container's id.
  const { containerId, execId } = decodeMessage(TaskExecAddedSchema, event.value);
  return { container: containerId, word: word.startsWith("exec-") ? `${word} ${execId}` : word };
}

/** The words of each container, in the order in which they came. */
export function byContainer(events: readonly Envelope[]): Map<string, string[]> {
  const words = new Map<string, string[]>();
  for (const found of events.map(taskWord)) {
    if (found === undefined) continue;
    const known = words.get(found.container);
    if (known === undefined) words.set(found.container, [found.word]);
    else known.push(found.word);
  }
  return words;
}

/** What the container does that others are cloned from. */
const PATTERN = "exit 0";

async function patternOf(t: Stage, client: Client, [image, mount]: readonly [string, string]): Promise<Clones> {
  await t.must("containers", "create", "--mount", mount, image, t.id("pattern"), "sh", "-c", PATTERN);
  return Clones.of(client, t.namespace, t.id("pattern"));
}

/** How many containers, and how they are started. */
export interface PrintOptions {
  readonly most: number;
  readonly parallel: number;
  /** For how long more of them are started at most, so that there may be fewer than `most`. */
  readonly startMs?: number;
  /** By calls of the SDK instead of `ctr run -d`: a client's start costs more than a container's. */
  readonly byCalls?: boolean;
}

/**
 * Containers print to both streams and exit at once; output, codes and events must be exact.
 *
 * @returns how many there were
 */
export async function printAndExit(t: Stage, how: PrintOptions): Promise<number> {
  const { most, parallel, startMs = Number.POSITIVE_INFINITY, byCalls = false } = how;
  const image = await t.image();
  await using gate = await Gate.make(t.path(t.id("gate")));
  const id = (index: number): string => t.id(`c${index}`);
  const log = (index: number): string => t.path(`${id(index)}.log`);
  const code = (index: number): number => index % 250;
  const script = (index: number): string =>
    `${Gate.wait}; echo out ${index}; echo err ${index} >&2; exit ${code(index)}`;
  return await withClient(t, async (client) => {
    const clones = byCalls ? await patternOf(t, client, [image, gate.mount]) : undefined;
    const run = async (index: number): Promise<void> => {
      if (clones === undefined) {
        const flags = ["-d", "--log-uri", `file://${log(index)}`, "--mount", gate.mount];
        await t.must("run", ...flags, image, id(index), "sh", "-c", script(index));
        return;
      }
      await clones.make(id(index), { replace: [[JSON.stringify(PATTERN), JSON.stringify(script(index))]] });
      await clones.create(id(index), logUriIo(`file://${log(index)}`, { terminal: false }));
      await clones.start(id(index));
    };
    let count = 0;
    const stop = new AbortController();
    const context = { signal: stop.signal, namespace: t.namespace };
    const told: Envelope[] = [];
    const listening = (async (): Promise<void> => {
      for await (const event of client.events.subscribe(context, [`namespace=="${t.namespace}"`])) told.push(event);
    })();
    try {
      await eventually("the subscription", async () => {
        await t.must("namespaces", "label", t.namespace, "now=yes");
        return told.length > 0 ? true : undefined;
      });
      const began = performance.now();
      await eachOf(most, parallel, async (index) => {
        if (index > 0 && performance.now() - began > startMs) return;
        count += 1; // indices are given out in order, so these are the first ones
        await run(index);
      });
      const exits = Array.from({ length: count }, (_, index) =>
        client.tasks.wait(context, { containerId: id(index), execId: "" }),
      );
      gate.open();
      const codes = (await Promise.all(exits)).map(({ exitStatus }) => exitStatus);
      expect(codes).toEqual(Array.from({ length: count }, (_, index) => code(index)));
      await eachOf(count, parallel, async (index) => {
        // The two streams come by two ways; each is whole.
        const lines = (await readFile(log(index), "utf8")).split("\n").toSorted();
        expect(lines).toEqual(["", `err ${index}`, `out ${index}`]);
        const ended = await client.tasks.delete(context, { containerId: id(index), execId: "" });
        expect(ended.exitStatus).toBe(code(index));
      });
      const ends = (): Map<string, string[]> => byContainer(told);
      await eventually("all events", () =>
        told.filter(({ topic }) => topic === "/tasks/delete").length >= count ? true : undefined,
      );
      for (let index = 0; index < count; index++) {
        expect([id(index), ends().get(id(index))]).toEqual([id(index), ["create", "start", "exit", "delete"]]);
      }
      expect(ends().size).toBe(count);
      await clones?.removeAll(parallel);
      return count;
    } finally {
      stop.abort();
      await listening.catch(() => undefined);
    }
  });
}
