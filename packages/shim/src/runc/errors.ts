import { type ClassifiedError, classified } from "@stevedore/base/errors";
import { isJsonObject, parseJson } from "@stevedore/oci/json-lossless";
import { statPath } from "@stevedore/os/stat";

/** How a run of the runtime failed. */
export interface RuntimeFailure {
  /** The runtime's name as it was called. */
  readonly command: string;
  /** `exit status 1` or `signal: killed`. */
  readonly how: string;
  /** What it printed, trimmed. */
  readonly output: string;
  /** The last error of its log, "" for none. */
  readonly logged: string;
  /** Why the log could not be read, "" if it could. */
  readonly logTrouble: string;
}

/** A runtime that ended with a failure. Its class is unknown, as the runtime tells none. */
export class RuntimeError extends Error {
  readonly failure: RuntimeFailure;

  constructor(failure: RuntimeFailure) {
    super(`${failure.command} did not terminate successfully: ${failure.how}: ${failure.output}`);
    this.failure = failure;
  }
}

/**
 * Puts what was being done in front of what the runtime said in its log, in the peer's words
 * (`OCI runtime create failed: ...`).
 */
export function runtimeError(doing: string, error: unknown): unknown {
  if (!(error instanceof RuntimeError)) return error;
  const { logged, logTrouble } = error.failure;
  if (logTrouble !== "") {
    const text = `${doing}: unable to retrieve OCI runtime error (${logTrouble}): ${error.message}`;
    return classified("unknown", text, { cause: error });
  }
  return classified("unknown", logged === "" ? `${doing}: ${error.message}` : `${doing}: ${logged}`, { cause: error });
}

/** What runtimes print when the process to signal has ended; runc, crun and Go's os package. */
const FINISHED = ["os: process already finished", "container not running"];

/** The client-visible error for a signal to a process that has ended. */
export function alreadyFinished(cause?: unknown): ClassifiedError {
  return classified("not-found", "process already finished: not found", cause === undefined ? {} : { cause });
}

/** The client-visible error for a signal that could not be sent. */
export function killError(error: unknown): ClassifiedError {
  const text = error instanceof Error ? error.message : String(error);
  if (FINISHED.some((words) => text.includes(words)) || text.toLowerCase().includes("no such process")) {
    return alreadyFinished(error);
  }
  if (text.includes("does not exist")) return classified("not-found", "no such container: not found", { cause: error });
  return classified("unknown", `unknown error after kill: ${text}`, { cause: error });
}

/** Whether a runtime failed because it does not know the container (any more). */
export function isMissingContainer(error: unknown): boolean {
  return error instanceof RuntimeError && `${error.failure.output} ${error.failure.logged}`.includes("does not exist");
}

/** At most this much of a runtime's log is looked at; one line of runc is far below a KiB. */
const MAX_LOG_BYTES = 256 << 10;

/** The size of a log, 0 when there is none: where the lines of the next run begin. */
export function logSize(path: string): number {
  try {
    return statPath(path).size;
  } catch {
    return 0;
  }
}

/** The message of the last line of level error in a runtime's JSON log, from byte `from` on; "" when there is none. */
export async function lastLoggedError(path: string, from: number): Promise<string> {
  const text = await Bun.file(path)
    .slice(from, from + MAX_LOG_BYTES)
    .text();
  return lastErrorOf(text);
}

/** As {@link lastLoggedError}, of a text. Lines that are no JSON are passed over. */
export function lastErrorOf(text: string): string {
  for (const line of text.split("\n").toReversed()) {
    if (line.trim() === "") continue;
    try {
      const entry = parseJson(line);
      if (!isJsonObject(entry) || entry["level"] !== "error") continue;
      const message = entry["msg"];
      if (typeof message === "string") return message.trim();
    } catch {
      // a line cut short by a killed runtime
    }
  }
  return "";
}
