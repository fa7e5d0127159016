import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { encodeText } from "@stevedore/base/bytes";
import type { Logger } from "@stevedore/base/log";
import { type ExitSource, exitLine } from "@stevedore/keeper/exit-line";
import type { ProcessName } from "@stevedore/keeper/protocol";
import { isJsonObject, type JsonObject, type JsonValue, parseJson } from "@stevedore/oci/json-lossless";
import { ERRNO, errnoText, isErrno } from "@stevedore/os/errno";
import { OwnedFd, writeFrom } from "@stevedore/os/fd";
import { openForAppending } from "@stevedore/os/files";
import type { ProcessEnd } from "./process.ts";
import type { StdioNames } from "./stdio/target.ts";

/**
 * What happened to a container, a line of JSON for each event, appended before the event matters to anybody: what a shim that
 * takes over from a dead one knows. The keeper writes here too: the exits of what a dead shim has left.
 */

const JOURNAL_FILE = "journal";

/** A line of the journal. */
export type JournalLine =
  /** The runtime is about to be called. `rootfs`: whether we mounted it. */
  | { readonly what: "create"; readonly io: StdioNames; readonly rootfs: boolean; readonly checkpoint: boolean }
  /** It has a first process. */
  | ({ readonly what: "init" } & ProcessName)
  | { readonly what: "started" }
  | { readonly what: "exec"; readonly exec: string; readonly io: StdioNames; readonly spec: string }
  /** The runtime is about to be called for an exec; `after` is the clock (ticks since boot) then. */
  | { readonly what: "exec-start"; readonly exec: string }
  | ({ readonly what: "exec-pid"; readonly exec: string } & ProcessName)
  /** Its start failed, or it was deleted: there is no such exec any more. */
  | { readonly what: "exec-failed" | "exec-deleted"; readonly exec: string }
  /** The client is done with its input. */
  | { readonly what: "stdin-closed"; readonly exec: string }
  /** The daemon has been told of an exit. */
  | { readonly what: "told"; readonly exec: string; readonly pid: number };

/** The journal of a container, for writing. */
export class Journal implements Disposable {
  readonly #fd: OwnedFd;
  readonly #log: Logger;

  private constructor(fd: OwnedFd, log: Logger) {
    this.#fd = fd;
    this.#log = log;
  }

  static open(bundle: string, log: Logger): Journal {
    return new Journal(new OwnedFd(openForAppending(join(bundle, JOURNAL_FILE), 0o600)), log);
  }

  /** One that keeps nothing: for shims without a keeper, which nobody takes over from. */
  static none(log: Logger): Journal {
    return new Journal(new OwnedFd(-1), log);
  }

  /** For the keeper. */
  get fd(): number {
    return this.#fd.fd;
  }

  /**
   * Appends a line: one write to the page cache, which outlives this process. A failure (no space) is logged: the container
   * goes on, and a shim that takes over knows less.
   */
  write(line: JournalLine): void {
    this.#append(encodeText(`${JSON.stringify(line)}\n`));
  }

  /** Appends how a process ended. */
  writeExit(exec: string, end: ProcessEnd): void {
    const { pid, status: code, exitedAt, start = "", source = "reaped", reason = "" } = end;
    this.#append(exitLine(exec, { pid, start, code, at: exitedAt.getTime() }, source, reason));
  }

  [Symbol.dispose](): void {
    this.#fd[Symbol.dispose]();
  }

  #append(bytes: Uint8Array): void {
    if (this.#fd.fd < 0) return; // deleted meanwhile, or none is kept
    const written = writeFrom(this.#fd.fd, bytes);
    if (written === bytes.byteLength) return;
    this.#log.error("write journal", { error: written < 0 ? errnoText(-written) : errnoText(ERRNO.ENOSPC) });
  }
}

/** An exit in a journal. */
export interface JournalExit extends ProcessName {
  readonly status: number;
  readonly exitedAt: Date;
  readonly source: ExitSource;
  readonly reason: string;
}

/** What a journal says of a process. */
export interface JournalProcess {
  readonly io: StdioNames;
  /** The OCI process of an exec as JSON; "" for init. */
  readonly spec: string;
  /** Whether its runtime was called. */
  starting: boolean;
  process: ProcessName | undefined;
  exit: JournalExit | undefined;
  /** Whether the daemon was told of its exit. */
  told: boolean;
  stdinClosed: boolean;
}

/** What a journal says as a whole. */
export interface JournalState {
  readonly init: JournalProcess;
  readonly rootfs: boolean;
  readonly checkpoint: boolean;
  started: boolean;
  readonly execs: Map<string, JournalProcess>;
}

/** Reads a bundle's journal; undefined when there is none. A last line that was cut off is left out. */
export async function readJournal(bundle: string): Promise<JournalState | undefined> {
  let text: string;
  try {
    text = await readFile(join(bundle, JOURNAL_FILE), "utf8");
  } catch (error) {
    if (isErrno(error, "ENOENT")) return undefined;
    throw error;
  }
  let state: JournalState | undefined;
  for (const line of text.split("\n")) {
    const fields = parseLine(line);
    if (fields === undefined) continue;
    if (fields["what"] === "create") {
      state ??= {
        init: newProcess(ioOf(fields["io"]), ""),
        rootfs: fields["rootfs"] === true,
        checkpoint: fields["checkpoint"] === true,
        started: false,
        execs: new Map(),
      };
    } else if (state !== undefined) enter(state, fields);
  }
  return state;
}

function newProcess(io: StdioNames, spec: string): JournalProcess {
  return { io, spec, starting: false, process: undefined, exit: undefined, told: false, stdinClosed: false };
}

function enter(state: JournalState, fields: JsonObject): void {
  const exec = textOf(fields["exec"]);
  const target = exec === "" ? state.init : state.execs.get(exec);
  switch (textOf(fields["what"])) {
    case "init":
      state.init.process = { pid: Number(fields["pid"]), start: textOf(fields["start"]) };
      return;
    case "started":
      state.started = true;
      return;
    case "exec":
      state.execs.set(exec, newProcess(ioOf(fields["io"]), textOf(fields["spec"])));
      return;
    case "exec-deleted":
      state.execs.delete(exec);
      return;
    default:
  }
  if (target === undefined) return;
  switch (textOf(fields["what"])) {
    case "exec-start":
      target.starting = true;
      return;
    case "exec-failed":
      target.starting = false;
      return;
    case "exec-pid":
      target.process = { pid: Number(fields["pid"]), start: textOf(fields["start"]) };
      return;
    case "stdin-closed":
      target.stdinClosed = true;
      return;
    case "told":
      target.told = true;
      return;
    case "exit":
      target.exit ??= {
        pid: Number(fields["pid"]),
        start: textOf(fields["start"]),
        status: Number(fields["status"]),
        exitedAt: new Date(Number(fields["at"])),
        source: sourceOf(fields["source"]),
        reason: textOf(fields["reason"]),
      };
      return;
    default:
  }
}

function parseLine(line: string): JsonObject | undefined {
  if (line === "") return undefined;
  try {
    const value = parseJson(line);
    return isJsonObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function ioOf(value: JsonValue | undefined): StdioNames {
  const io = isJsonObject(value) ? value : {};
  return {
    stdin: textOf(io["stdin"]),
    stdout: textOf(io["stdout"]),
    stderr: textOf(io["stderr"]),
    terminal: io["terminal"] === true,
  };
}

function textOf(value: JsonValue | undefined): string {
  return typeof value === "string" ? value : "";
}

function sourceOf(value: JsonValue | undefined): ExitSource {
  return value === "reaped" || value === "keeper" || value === "pidfd" ? value : "unknown";
}
