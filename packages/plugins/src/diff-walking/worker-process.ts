import { classified, decodeText, ERROR_CLASSES, type ErrorClass } from "@stevedore/base";
import type { ApplyResult, CompareResult, FailedJob, LayerJob, LayerResult } from "@stevedore/oci/layer-job";
import { SIGKILL } from "@stevedore/os/signals";
import { pickEnvironment, runCommand } from "@stevedore/os/spawn";

/**
 * A namespace of its own for mounts, so that nothing the worker mounts is seen or left behind, and one for the network,
 * which has no interface. util-linux's unshare does not fork here: its process becomes the worker.
 */
const NAMESPACES = ["unshare", "--mount", "--net", "--propagation", "private", "--"];

/** A result lists at most a few thousand paths; see MAX_REPORTED. */
const MAX_RESULT = 16 << 20;

export interface WorkerRun {
  /** How to start the worker: a program and its first arguments. */
  readonly command: readonly string[];
  readonly signal: AbortSignal;
  /** Descriptors from 3 on; borrowed. */
  readonly fds: readonly number[];
}

/** Runs one job. @throws the job's own error; internal when the worker ended without a result; the signal's reason */
export async function runWorker(job: LayerJob, run: WorkerRun): Promise<ApplyResult | CompareResult> {
  const ended = await runCommand([...NAMESPACES, ...run.command], {
    env: pickEnvironment(["PATH"]),
    input: JSON.stringify(job),
    extraFds: run.fds,
    signal: run.signal,
    killSignal: SIGKILL,
    maxOutputBytes: MAX_RESULT,
  });
  const result = parseResult(decodeText(ended.stdout));
  if (result === undefined) {
    const how = ended.signal === undefined ? `with status ${ended.code}` : `by signal ${ended.signal}`;
    const said = decodeText(ended.stderr).trim().slice(-2_000);
    throw classified("internal", `layer worker ended ${how} without a result${said === "" ? "" : `: ${said}`}`);
  }
  if (result.kind === "failed") throw classified(classOf(result.errorClass), result.message);
  return result;
}

function classOf(text: string): ErrorClass {
  return ERROR_CLASSES.find((name) => name === text) ?? "unknown";
}

function isFields(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null;
}

function strings(value: unknown): readonly string[] {
  return Array.isArray(value) ? value.filter((item): item is string => typeof item === "string") : [];
}

function parseResult(json: string): LayerResult | undefined {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    return undefined;
  }
  if (!isFields(value)) return undefined;
  const { kind, diffId, size, entries, errorClass, message } = value;
  if (kind === "failed" && typeof errorClass === "string" && typeof message === "string") {
    return { kind, errorClass, message } satisfies FailedJob;
  }
  if (typeof diffId !== "string" || typeof size !== "number" || typeof entries !== "number") return undefined;
  if (kind === "compared") return { kind, diffId, size, entries };
  if (kind !== "applied") return undefined;
  const { implied, opaque, warnings } = value;
  return {
    kind,
    diffId,
    size,
    entries,
    implied: strings(implied),
    opaque: strings(opaque),
    warnings: strings(warnings),
  };
}
