/** CPU profiles by the engine's sampling profiler. It sees the daemon's loop, not its other threads. */
import { Session } from "node:inspector/promises";
import { classified } from "@stevedore/base";
import { encodeProfile, type Frame, type StackSample } from "./pprof.ts";

/** Microseconds between samples: Go's 100 a second is too coarse for a loop whose calls take a fraction of that. */
const INTERVAL_US = 1000;
const NANOS_PER_US = 1000;

let running = false;

/**
 * Profiles the loop for `seconds`, or until the signal ends, and returns a gzipped pprof profile.
 * @throws failed-precondition while another profile is being taken
 */
export async function takeCpuProfile(seconds: number, signal: AbortSignal): Promise<Uint8Array> {
  if (running) {
    throw classified("failed-precondition", "could not enable CPU profiling: cpu profiling already in use");
  }
  running = true;
  const session = new Session();
  try {
    session.connect();
    await session.post("Profiler.enable");
    await session.post("Profiler.setSamplingInterval", { interval: INTERVAL_US });
    const takenAt = Date.now();
    await session.post("Profiler.start");
    await pause(seconds * 1000, signal);
    const { profile } = await session.post("Profiler.stop");
    return await encodeProfile({
      kinds: [
        { type: "samples", unit: "count" },
        { type: "cpu", unit: "nanoseconds" },
      ],
      shownKind: "cpu",
      samples: samplesOf(profile),
      takenAt,
      durationMs: Date.now() - takenAt,
      period: { kind: { type: "cpu", unit: "nanoseconds" }, value: INTERVAL_US * NANOS_PER_US },
    });
  } finally {
    session.disconnect();
    running = false;
  }
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => resolve(), { once: true });
  await promise;
  clearTimeout(timer);
}

/** A profile as the inspector protocol has it: a tree of calls, and the leaf of each sample. */
export interface InspectorProfile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number };
    readonly children?: readonly number[] | undefined;
  }[];
  readonly samples?: readonly number[] | undefined;
  readonly timeDeltas?: readonly number[] | undefined;
}

/** Samples by stack. Idle time and the engine's own frames without a name are left out. */
export function samplesOf(profile: InspectorProfile): StackSample[] {
  const parents = new Map<number, number>();
  const nodes = new Map(profile.nodes.map((node) => [node.id, node]));
  for (const node of profile.nodes) for (const child of node.children ?? []) parents.set(child, node.id);
  const totals = new Map<number, { count: number; micros: number }>();
  for (const [at, id] of (profile.samples ?? []).entries()) {
    const total = totals.get(id) ?? { count: 0, micros: 0 };
    total.count += 1;
    // The gap before a sample also holds the time the loop slept, so it counts as one interval at most.
    total.micros += Math.min(Math.max(profile.timeDeltas?.[at] ?? INTERVAL_US, 0), INTERVAL_US);
    totals.set(id, total);
  }
  const samples: StackSample[] = [];
  for (const [id, { count, micros }] of totals) {
    const stack: Frame[] = [];
    for (let at: number | undefined = id; at !== undefined; at = parents.get(at)) {
      const frame = nodes.get(at)?.callFrame;
      if (frame === undefined || frame.functionName === "(root)" || frame.functionName === "(idle)") continue;
      const { functionName, url, lineNumber } = frame;
      stack.push({
        name: functionName === "" ? "(anonymous)" : functionName,
        file: url.replace(/^file:\/\//, ""),
        line: Math.max(lineNumber + 1, 0),
      });
    }
    if (stack.length > 0) samples.push({ stack, values: [count, micros * NANOS_PER_US] });
  }
  return samples;
}
