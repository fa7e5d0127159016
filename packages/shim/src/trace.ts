/**
 * Where the shim's steps say what they are, for a trace. Unless tracing is on, that is one look at a variable and the step
 * itself; what records is loaded by `startTracing` alone.
 */
import { messageOf } from "@stevedore/base/errors";
import type { Logger } from "@stevedore/base/log";
import type { MetadataPair } from "@stevedore/ttrpc/request";

export type StepAttributes = Readonly<Record<string, string | number>>;

/** What records. */
export interface ShimTrace {
  /** Runs a call of the task API in a span below its caller's. */
  call<T>(of: TracedCall, work: () => Promise<T>): Promise<T>;
  /** Runs a step of the call that is running. */
  step<T>(name: string, attributes: StepAttributes, work: () => Promise<T>): Promise<T>;
}

export interface TracedCall {
  readonly service: string;
  readonly method: string;
  readonly metadata: readonly MetadataPair[];
}

let recording: ShimTrace | undefined;

export async function traceCall<T>(of: TracedCall, work: () => Promise<T>): Promise<T> {
  return recording === undefined ? work() : recording.call(of, work);
}

export async function traceStep<T>(name: string, attributes: StepAttributes, work: () => Promise<T>): Promise<T> {
  return recording === undefined ? work() : recording.step(name, attributes, work);
}

/**
 * Turns tracing on if OTEL_* variables say so, as the daemon gives them to its shims. A shim that cannot trace is still a
 * shim: the log has the reason. Dispose the result to send the last spans.
 */
export async function startTracing(
  env: Readonly<Record<string, string | undefined>>,
  log: Logger,
): Promise<AsyncDisposable | undefined> {
  if (!Object.keys(env).some((name) => name.startsWith("OTEL_"))) return undefined;
  try {
    const { openTrace } = await import("./otlp-trace.ts");
    const opened = openTrace(env, log);
    recording = opened?.trace;
    return opened;
  } catch (error) {
    log.warn("tracing is off", { error: messageOf(error) });
    return undefined;
  }
}
