import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { concatBytes, encodeText } from "@stevedore/base/bytes";
import { messageOf } from "@stevedore/base/errors";
import type { Logger } from "@stevedore/base/log";
import { type ExitSource, exitLine } from "@stevedore/keeper/exit-line";
import type { ProcessName } from "@stevedore/keeper/protocol";
import { isJsonObject, type JsonObject, type JsonValue, parseJson } from "@stevedore/oci/json-lossless";
import { ERRNO, errnoText, isErrno } from "@stevedore/os/errno";
import { OwnedFd, writeAll, writeFrom } from "@stevedore/os/fd";
import { openForAppending, renameOver } from "@stevedore/os/files";
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
  /** `at`: the time that its event has, in milliseconds. */
  | { readonly what: "paused" | "resumed"; readonly at: number }
  | { readonly what: "exec"; readonly exec: string; readonly io: StdioNames; readonly spec: string }
  /** The runtime is about to be called for an exec; `after` is the clock (ticks since boot) then. */
  | { readonly what: "exec-start"; readonly exec: string }
  | ({ readonly what: "exec-pid"; readonly exec: string } & ProcessName)
  /** Its start failed, or it was deleted: there is no such exec any more. */
  | { readonly what: "exec-failed"; readonly exec: string }
  | { readonly what: "exec-deleted"; readonly exec: string }
  /** The client is done with its input. */
  | { readonly what: "stdin-closed"; readonly exec: string }
  /** The daemon has been told of an exit. */
  | { readonly what: "told"; readonly exec: string; readonly pid: number };

/** Pauses and resumes that are kept, the last ones: a container may be paused every minute for months. */
const KEPT_CHANGES = 2;

/** Where they are kept among the lines, beside execs, whose ids have no space. */
const CHANGES = " changes";

/** A journal is written anew when it has this many bytes, most of them of execs that are gone. */
const COMPACT_BYTES = 64 << 10;

export interface JournalOptions {
  readonly log: Logger;
  /** Told of the descriptor when the journal is another file from now on. */
  readonly replaced: (fd: number) => void;
  /** What stands in it already. */
  readonly lines?: Map<string, Uint8Array[]>;
}

/** The journal of a container, for writing. */
export class Journal implements Disposable {
  readonly #path: string;
  readonly #log: Logger;
  readonly #replaced: (fd: number) => void;
  #fd: OwnedFd;
  /** What is still of use: lines by exec, "" for init. */
  readonly #lines: Map<string, Uint8Array[]>;
  #written = 0;
  #live = 0;

  private constructor(path: string, fd: OwnedFd, made: JournalOptions) {
    this.#path = path;
    this.#fd = fd;
    this.#log = made.log;
    this.#replaced = made.replaced;
    this.#lines = made.lines ?? new Map<string, Uint8Array[]>();
    for (const { byteLength } of [...this.#lines.values()].flat()) this.#live += byteLength;
    this.#written = this.#live;
  }

  static open(bundle: string, made: JournalOptions): Journal {
    const path = join(bundle, JOURNAL_FILE);
    return new Journal(path, new OwnedFd(openForAppending(path, 0o600)), made);
  }

  /** One that keeps nothing: for shims without a keeper, which nobody takes over from. */
  static none(log: Logger): Journal {
    return new Journal("", new OwnedFd(-1), { log, replaced: () => undefined });
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
    const isChange = line.what === "paused" || line.what === "resumed";
    const exec = "exec" in line ? line.exec : isChange ? CHANGES : "";
    // The daemon may take the news of an exit after the exec was deleted: nobody needs to know, and the line would stay for ever.
    if (line.what === "told" && exec !== "" && !this.#lines.has(exec)) return;
    this.#append(exec, encodeText(`${JSON.stringify({ at: Date.now(), ...line })}\n`));
    if (isChange) {
      const kept = this.#lines.get(exec) ?? [];
      const old = kept.splice(0, Math.max(kept.length - KEPT_CHANGES, 0));
      for (const { byteLength } of old) this.#live -= byteLength;
    }
    if (line.what !== "exec-deleted") return;
    for (const { byteLength } of this.#lines.get(exec) ?? []) this.#live -= byteLength;
    this.#lines.delete(exec);
    if (this.#written > COMPACT_BYTES && this.#written > 2 * this.#live) this.#compact();
  }

  /** Appends how a process ended. */
  writeExit(exec: string, end: ProcessEnd): void {
    const { pid, status: code, exitedAt, start = "", source = "reaped", reason = "" } = end;
    this.#append(exec, exitLine(exec, { pid, start, code, at: exitedAt.getTime() }, source, reason));
  }

  [Symbol.dispose](): void {
    this.#fd[Symbol.dispose]();
  }

  #append(exec: string, bytes: Uint8Array): void {
    if (this.#fd.fd < 0) return; // deleted meanwhile, or none is kept
    const lines = this.#lines.get(exec);
    if (lines === undefined) this.#lines.set(exec, [bytes]);
    else lines.push(bytes);
    this.#written += bytes.byteLength;
    this.#live += bytes.byteLength;
    const written = writeFrom(this.#fd.fd, bytes);
    if (written === bytes.byteLength) return;
    this.#log.error("write journal", { error: written < 0 ? errnoText(-written) : errnoText(ERRNO.ENOSPC) });
  }

  /** Health checks run execs for months: what is left of those that are gone would fill the memory the bundle is in. */
  #compact(): void {
    const temporary = `${this.#path}.new`;
    try {
      using next = new OwnedFd(openForAppending(temporary, 0o600, true));
      writeAll(next.fd, concatBytes([...this.#lines.values()].flat()));
      renameOver(temporary, this.#path);
      this.#fd[Symbol.dispose]();
      this.#fd = new OwnedFd(next.release());
      this.#written = this.#live;
      this.#replaced(this.#fd.fd);
    } catch (error) {
      this.#log.error("write journal anew", { error: messageOf(error) });
    }
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
  /** When it was made and when started, in milliseconds since 1970; 0 while it was not. */
  madeAt: number;
  startedAt: number;
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
  /** Its last pauses and resumes, in order. */
  readonly changes: { readonly what: "paused" | "resumed"; readonly at: number }[];
  readonly execs: Map<string, JournalProcess>;
  /** What is still of use, by exec, "" for init. */
  readonly lines: Map<string, Uint8Array[]>;
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
        changes: [],
        execs: new Map(),
        lines: new Map(),
      };
    } else if (state !== undefined) enter(state, fields);
    const isChange = fields["what"] === "paused" || fields["what"] === "resumed";
    if (state !== undefined) keepLine(state, isChange ? CHANGES : textOf(fields["exec"]), line);
  }
  return state;
}

function keepLine({ lines, execs }: JournalState, exec: string, line: string): void {
  if (exec !== "" && exec !== CHANGES && !execs.has(exec)) lines.delete(exec);
  else lines.set(exec, [...(lines.get(exec) ?? []), encodeText(`${line}\n`)]);
}

function newProcess(io: StdioNames, spec: string): JournalProcess {
  return {
    io,
    spec,
    starting: false,
    madeAt: 0,
    startedAt: 0,
    process: undefined,
    exit: undefined,
    told: false,
    stdinClosed: false,
  };
}

function enter(state: JournalState, fields: JsonObject): void {
  const exec = textOf(fields["exec"]);
  const target = exec === "" ? state.init : state.execs.get(exec);
  const at = Number(fields["at"] ?? 0);
  const what = textOf(fields["what"]);
  switch (what) {
    case "init":
      state.init.process = { pid: Number(fields["pid"]), start: textOf(fields["start"]) };
      state.init.madeAt = at;
      return;
    case "started":
      state.started = true;
      state.init.startedAt = at;
      return;
    case "paused":
    case "resumed":
      state.changes.push({ what, at });
      if (state.changes.length > KEPT_CHANGES) state.changes.shift();
      return;
    case "exec":
      state.execs.set(exec, { ...newProcess(ioOf(fields["io"]), textOf(fields["spec"])), madeAt: at });
      return;
    case "exec-deleted":
      state.execs.delete(exec);
      return;
    default:
  }
  if (target === undefined) return;
  switch (what) {
    case "exec-start":
      target.starting = true;
      return;
    case "exec-failed":
      target.starting = false;
      return;
    case "exec-pid":
      target.process = { pid: Number(fields["pid"]), start: textOf(fields["start"]) };
      target.startedAt = at;
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
