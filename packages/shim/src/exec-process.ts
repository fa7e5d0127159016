import { join } from "node:path";
import { classified, messageOf } from "@stevedore/base/errors";
import { nowMoment } from "@stevedore/base/moment";
import type { ProcessName } from "@stevedore/keeper/protocol";
import { encodeJson, isJsonObject, parseJson } from "@stevedore/oci/json-lossless";
import { OwnedFd } from "@stevedore/os/fd";
import { openPidfd } from "@stevedore/os/pidfd";
import { sendSignal } from "@stevedore/os/process";
import { readPidFile, removeQuietly } from "./bundle.ts";
import type { ProcessDeposits } from "./deposits.ts";
import { nameOf } from "./exits.ts";
import { closeInput, closeStreams, type InitProcess, openStreams, type ProcessStreams } from "./init-process.ts";
import type { Journal } from "./journal.ts";
import { Mutex } from "./mutex.ts";
import type { ContainerProcess, ProcessEnd, ProcessStatus, ShimContext } from "./process.ts";
import { killError, RuntimeError, runtimeError } from "./runc/errors.ts";
import type { StdioNames } from "./stdio/target.ts";

/** What an exec is, and what exists with it. */
export type ExecState =
  | { readonly kind: "created" }
  | { readonly kind: "running"; readonly pid: number; readonly streams: ProcessStreams | undefined }
  | { readonly kind: "stopped"; readonly pid: number; readonly streams: ProcessStreams | undefined }
  /** Its start failed: it never ran and never will. */
  | { readonly kind: "failed" }
  | { readonly kind: "deleted"; readonly pid: number };

export interface ExecRequest {
  readonly id: string;
  readonly bundle: string;
  readonly names: StdioNames;
  /** The OCI process as JSON, as the client sent it. */
  readonly spec: Uint8Array;
  readonly uid: number;
  readonly gid: number;
  readonly journal: Journal;
}

/** What is known of an exec that another shim began. */
export interface AdoptedExec {
  readonly process: ProcessName;
  readonly pidfd: OwnedFd;
  readonly streams: ProcessStreams | undefined;
  readonly stdinDone: boolean;
}

/** A process added to a running container. */
export class ExecProcess implements ContainerProcess {
  readonly id: string;
  readonly names: StdioNames;
  readonly #request: ExecRequest;
  readonly #init: InitProcess;
  readonly #shim: ShimContext;
  readonly #spec: string;
  readonly #kept: ProcessDeposits;
  #process: ProcessName | undefined;
  #pidfd: OwnedFd | undefined;
  /** Begun by a shim that is dead: no child of ours. */
  #adopted = false;
  readonly #mutex = new Mutex();
  readonly #ended = Promise.withResolvers<ProcessEnd>();
  #state: ExecState = { kind: "created" };
  #end: ProcessEnd | undefined;
  /** The client was done with its input before there were streams. */
  #stdinDone = false;

  /** @throws invalid-argument when the spec is no JSON object */
  constructor(request: ExecRequest, init: InitProcess, shim: ShimContext) {
    const spec = parseJson(request.spec);
    if (!isJsonObject(spec)) throw classified("invalid-argument", "decode process spec: no JSON object");
    // The request's word on the terminal counts, and our streams are made by it.
    spec["terminal"] = request.names.terminal;
    this.#spec = encodeJson(spec);
    this.id = request.id;
    this.names = request.names;
    this.#request = request;
    this.#init = init;
    this.#shim = shim;
    this.#kept = shim.deposits.of(init.id, request.id);
  }

  /** The OCI process as the runtime gets it, for the journal. */
  get spec(): string {
    return this.#spec;
  }

  /** Goes on with a process that another shim, now dead, began. */
  adopt(found: AdoptedExec): void {
    this.#adopted = true;
    this.#process = found.process;
    this.#pidfd = found.pidfd;
    this.#stdinDone = found.stdinDone;
    const { pid } = found.process;
    this.#state = { kind: "running", pid, streams: found.streams };
    if (found.pidfd.fd >= 0) this.#kept.keepProcess(found.process, found.pidfd.fd);
  }

  /** Its start was cut off with the shim: whether it ever ran is not known. */
  adoptFailed(): void {
    this.#state = { kind: "failed" };
    this.#ended.resolve({ pid: 0, status: 255, exitedAt: nowMoment() });
  }

  /** How it ends; resolves before that is written down. Call it once it runs. */
  async untilExit(): Promise<ProcessEnd> {
    const { exits } = this.#shim;
    if (this.#adopted && this.#process !== undefined) return exits.watchOrphan(this.#process, this.#pidfd?.fd ?? -1);
    const { pid, code, exitedAt } = await exits.watch(this.pid);
    return { pid, status: code, exitedAt, start: this.#process?.start ?? "" };
  }

  get pid(): number {
    return "pid" in this.#state ? this.#state.pid : 0;
  }

  get end(): ProcessEnd | undefined {
    return this.#end;
  }

  get ended(): Promise<ProcessEnd> {
    return this.#ended.promise;
  }

  get status(): ProcessStatus {
    const whole = this.#init.status;
    if (whole === "paused" || whole === "pausing") return whole;
    switch (this.#state.kind) {
      case "created":
      case "failed":
        return "created";
      case "running":
        return "running";
      case "stopped":
      case "deleted":
        return "stopped";
    }
  }

  /** @param started called once it runs, before its end can be told to anybody. @returns the pid */
  start(started: (pid: number) => void): Promise<number> {
    return this.#mutex.run(async () => {
      const { kind } = this.#state;
      if (kind === "running" || kind === "stopped" || kind === "deleted") {
        throw classified("unknown", `cannot start a ${kind} process`);
      }
      const { journal } = this.#request;
      journal.write({ what: "exec-start", exec: this.id });
      const streams = await this.#open();
      const pid = this.#readPid();
      this.#keepProcess(pid);
      this.#state = { kind: "running", pid, streams };
      if (this.#stdinDone) closeInput(streams);
      started(pid);
      return pid;
    });
  }

  kill(signal: number): Promise<void> {
    return this.#mutex.run(async () => {
      if (this.#state.kind === "deleted") {
        throw classified("not-found", "cannot kill a deleted process: not found");
      }
      if (this.pid === 0) throw classified("failed-precondition", "process not created: failed precondition");
      if (this.#end !== undefined) throw finished();
      let reached: boolean;
      try {
        reached = sendSignal(this.pid, signal);
      } catch (error) {
        const cause = killError(error);
        throw classified(cause.errorClass, `exec kill error: ${cause.message}`, { cause });
      }
      if (!reached) throw classified("not-found", "exec kill error: process already finished: not found");
    });
  }

  delete(): Promise<void> {
    return this.#mutex.run(async () => {
      const state = this.#state;
      if (state.kind === "running") throw classified("unknown", "cannot delete a running process");
      if (state.kind === "deleted") throw classified("not-found", "cannot delete a deleted process: not found");
      if (state.kind === "stopped" && state.streams !== undefined && !(await closeStreams(state.streams))) {
        this.#shim.log.error(`failed to drain exec process ${this.id} io`);
      }
      await removeQuietly(this.#pidFile());
      this.#state = { kind: "deleted", pid: this.pid };
      this.#request.journal.write({ what: "exec-deleted", exec: this.id });
      this.#kept.forgetAll();
      this.#pidfd?.close();
    });
  }

  /** Gives up what is open for it: its container goes, and nobody has deleted it. Returns at once. */
  abandon(): void {
    void this.#mutex.run(async () => {
      const state = this.#state;
      if (state.kind === "deleted") return;
      this.#state = { kind: "deleted", pid: this.pid };
      this.#kept.over();
      this.#pidfd?.close();
      if ("streams" in state && state.streams !== undefined) await closeStreams(state.streams);
    });
  }

  async resize(size: { readonly width: number; readonly height: number }): Promise<void> {
    const state = this.#state;
    if (state.kind === "stopped") throw classified("unknown", "cannot resize a stopped container");
    if (state.kind === "deleted") throw classified("unknown", "cannot resize a deleted process");
    if (state.kind === "running" && state.streams?.kind === "console") {
      state.streams.console.resize(size.width, size.height);
    }
  }

  closeStdin(): void {
    if (!this.#stdinDone) this.#request.journal.write({ what: "stdin-closed", exec: this.id });
    this.#stdinDone = true;
    if ("streams" in this.#state) closeInput(this.#state.streams);
  }

  /** Records its end. */
  setEnded(end: ProcessEnd): Promise<void> {
    return this.#mutex.run(async () => {
      this.#request.journal.writeExit(this.id, end);
      this.#shim.exits.recorded(end.pid);
      this.#kept.over();
      this.#end = end;
      const state = this.#state;
      if (state.kind === "running") this.#state = { kind: "stopped", pid: state.pid, streams: state.streams };
      this.#ended.resolve(end);
    });
  }

  async #open(): Promise<ProcessStreams> {
    const { names, uid, gid } = this.#request;
    try {
      return await openStreams(
        { ...this.#shim, names, id: this.id, direct: false, uid, gid, kept: this.#kept },
        (streams) =>
          this.#init.runtime.exec(this.#init.id, { process: this.#spec, pidFile: this.#pidFile(), ...streams }),
      );
    } catch (error) {
      this.#state = { kind: "failed" };
      this.#request.journal.write({ what: "exec-failed", exec: this.id });
      // Whoever waits learns that nothing will come; it never ran, so there is no status of its own.
      this.#ended.resolve({ pid: 0, status: 255, exitedAt: nowMoment() });
      throw error instanceof RuntimeError ? runtimeError("OCI runtime exec failed", error) : error;
    }
  }

  #keepProcess(pid: number): void {
    this.#process = nameOf(pid);
    if (this.#process === undefined) return; // no child of ours, and over already
    this.#request.journal.write({ what: "exec-pid", exec: this.id, ...this.#process });
    this.#pidfd = new OwnedFd(openPidfd(pid));
    this.#kept.keepProcessSoon(this.#process, this.#pidfd.fd);
  }

  #readPid(): number {
    try {
      return readPidFile(this.#pidFile());
    } catch (error) {
      throw classified("unknown", `failed to retrieve OCI runtime exec pid: ${messageOf(error)}`, { cause: error });
    }
  }

  #pidFile(): string {
    return join(this.#request.bundle, `${this.id}.pid`);
  }
}

function finished(): Error {
  return classified("not-found", "process already finished: not found");
}
