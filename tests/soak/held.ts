// What a process holds, and whether that grows: looked at again and again while something is done many times.
import { readdir, readFile } from "node:fs/promises";
import { messageOf } from "@stevedore/base";

/** What a process holds. Figures of the heap only of those that serve a debug socket. */
export interface Held {
  readonly descriptors: number;
  readonly threads: number;
  /** Private memory, KiB. */
  readonly kibibytes: number;
  /** After a collection, KiB. */
  readonly heapKib?: number;
  /** Objects of the engine after a collection, those that stand for timers, sockets and files among them. */
  readonly objects?: number;
}

/** How long the engine may take to give memory back after a collection, milliseconds. */
const SCAVENGE_MS = 400;

export async function heldBy(pid: number): Promise<Held> {
  const smaps = await readFile(`/proc/${pid}/smaps_rollup`, "utf8");
  const of = (key: string): number => Number(RegExp(`^${key}:\\s+(\\d+)`, "m").exec(smaps)?.[1] ?? 0);
  return {
    descriptors: (await readdir(`/proc/${pid}/fd`)).length,
    threads: (await readdir(`/proc/${pid}/task`)).length,
    kibibytes: of("Private_Clean") + of("Private_Dirty"),
  };
}

/** The same after a collection, asked for at the process' debug socket. */
export async function heldAfterCollection(pid: number, debugSocket: string): Promise<Held> {
  const collect = async (): Promise<unknown> => {
    const answer = await fetch("http://debug/debug/vars?gc=1", { unix: debugSocket }).catch((error: unknown) => {
      throw new Error(`asking ${debugSocket} of process ${pid} for a collection: ${messageOf(error)}`, {
        cause: error,
      });
    });
    return answer.json();
  };
  await collect();
  await Bun.sleep(SCAVENGE_MS);
  const { heapKib, objects } = heapOf(await collect());
  return { ...(await heldBy(pid)), heapKib, objects };
}

function heapOf(variables: unknown): { readonly heapKib: number; readonly objects: number } {
  if (typeof variables === "object" && variables !== null && "heap" in variables) {
    const { heap } = variables;
    if (typeof heap === "object" && heap !== null && "heapSize" in heap && "objectCount" in heap)
      return { heapKib: Math.round(Number(heap.heapSize) / 1024), objects: Number(heap.objectCount) };
  }
  throw new Error(`a debug socket tells no heap: ${JSON.stringify(variables)}`);
}

/** A figure at a moment: `at` counts what was done so far. */
export interface Point {
  readonly at: number;
  readonly value: number;
}

/**
 * By how much a figure grows with each step: the middle one of the slopes between any two points (Theil and Sen), which a
 * collector's moods do not move.
 */
export function slope(points: readonly Point[]): number {
  const slopes = points.flatMap((from, index) =>
    points.slice(index + 1).flatMap((to) => (to.at === from.at ? [] : [(to.value - from.value) / (to.at - from.at)])),
  );
  const sorted = slopes.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? 0;
}

/** The points of the last half of what was done. */
export function lastHalf<T extends { readonly at: number }>(points: readonly T[]): readonly T[] {
  const end = points.at(-1)?.at ?? 0;
  return points.filter(({ at }) => at >= end / 2);
}
