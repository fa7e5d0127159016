import { copyFile, mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { classified, messageOf } from "@stevedore/base/errors";
import type { ProcessName } from "@stevedore/keeper/protocol";
import { OwnedFd } from "@stevedore/os/fd";
import { openPidfd } from "@stevedore/os/pidfd";
import { SIGKILL } from "@stevedore/os/signals";
import { BUNDLE, readPidFile, writeExitRecord } from "./bundle.ts";
import { withCriuReason } from "./criu-log.ts";
import type { ProcessDeposits } from "./deposits.ts";
import { nameOf } from "./exits.ts";
import type { Journal } from "./journal.ts";
import { Mutex } from "./mutex.ts";
import type { CheckpointOptions, RuncOptions } from "./options.ts";
import {
  type ContainerProcess,
  DRAIN_TIMEOUT_MS,
  type ProcessEnd,
  type ProcessStatus,
  type ShimContext,
  settledWithin,
} from "./process.ts";
import type { Removal } from "./removal.ts";
import { DEFAULT_RUNTIME_ROOT, NO_STDIO, type RestoreCall, RuntimeClient } from "./runc/client.ts";
import { alreadyFinished, isMissingContainer, killError, RuntimeError, runtimeError } from "./runc/errors.ts";
import { type KnownState, knownState } from "./runc/known-state.ts";
import { releaseInit, removeState, signalInit } from "./runc/shortcuts.ts";
import { ProcessConsole, withConsoleSocket } from "./stdio/console.ts";
import { type Adoption, adoptProcessIo, openProcessIo, type ProcessIo } from "./stdio/process-io.ts";
import type { StdioNames } from "./stdio/target.ts";

/** How long a runtime may take to delete a container, milliseconds, before that is done by force. */
const DELETE_MS = 20_000;

/** What init is, and what exists with it. */
export type InitState =
  | { readonly kind: "created" }
  /** Made from a checkpoint: the runtime has nothing yet, start restores. */
  | { readonly kind: "created-checkpoint"; readonly restore: Omit<RestoreCall, "consoleSocket" | "stdio"> }
  | { readonly kind: "running" }
  | { readonly kind: "paused" }
  | { readonly kind: "stopped" }
  | { readonly kind: "deleted" };

/** What a container is made from. */
export interface InitRequest {
  readonly id: string;
  readonly bundle: string;
  readonly names: StdioNames;
  readonly options: RuncOptions;
  /** Folder of a checkpoint to restore from; "" for none. */
  readonly checkpoint: string;
  readonly parentCheckpoint: string;
  readonly journal: Journal;
}

/** What is known of an init that another shim began. */
export interface AdoptedInit {
  readonly process: ProcessName;
  /** -1 when it is gone and nobody held one. */
  readonly pidfd: OwnedFd;
  readonly state: InitState;
  readonly streams: ProcessStreams | undefined;
  readonly stdinDone: boolean;
}

/** The streams of a process: pipes and FIFOs, or a terminal. */
export type ProcessStreams =
  | { readonly kind: "pipes"; readonly io: ProcessIo }
  | { readonly kind: "console"; readonly console: ProcessConsole };

/** The first process of a container. Calls that change it wait for one another. */
export class InitProcess implements ContainerProcess {
  readonly id: string;
  readonly names: StdioNames;
  readonly runtime: RuntimeClient;
  readonly #request: InitRequest;
  readonly #shim: ShimContext;
  readonly #kept: ProcessDeposits;
  readonly #mutex = new Mutex();
  readonly #ended = Promise.withResolvers<ProcessEnd>();
  #state: InitState = { kind: "created" };
  #process: ProcessName | undefined;
  #pidfd: OwnedFd | undefined;
  /** Begun by a shim that is dead: no child of ours. */
  #adopted = false;
  #pausing = false;
  #pid = 0;
  #end: ProcessEnd | undefined;
  #streams: ProcessStreams | undefined;
  /** What the runtime keeps of it; undefined of a runtime that is called for everything. */
  #known: Promise<KnownState | undefined> | undefined;
  /** The client was done with its input before there were streams (a container restored at its start). */
  #stdinDone = false;

  private constructor(request: InitRequest, shim: ShimContext) {
    this.id = request.id;
    this.names = request.names;
    this.#request = request;
    this.#shim = shim;
    this.#kept = shim.deposits.of(request.id, "");
    const { options } = request;
    this.runtime = new RuntimeClient({
      command: options.binaryName,
      root: join(options.root === "" ? DEFAULT_RUNTIME_ROOT : options.root, shim.namespace),
      log: join(request.bundle, BUNDLE.runcLog),
      systemdCgroup: options.systemdCgroup,
      env: shim.env,
    });
  }

  /** Makes the container: its init waits for {@link InitProcess.start}. @throws what the runtime said */
  static async create(request: InitRequest, shim: ShimContext): Promise<InitProcess> {
    const init = new InitProcess(request, shim);
    try {
      await init.#create();
    } catch (error) {
      if (shim.deposits.enabled) await (await import("./removal.ts")).removeHalfMade(init.#removal(), error);
      throw error;
    }
    return init;
  }

  /** Goes on with an init that another shim, now dead, began. */
  static adopt(request: InitRequest, shim: ShimContext, found: AdoptedInit): InitProcess {
    const init = new InitProcess(request, shim);
    init.#adopted = true;
    init.#pid = found.process.pid;
    init.#process = found.process;
    init.#state = found.state;
    init.#streams = found.streams;
    init.#stdinDone = found.stdinDone;
    init.#pidfd = found.pidfd;
    if (found.pidfd.fd >= 0) init.#kept.keepProcess(found.process, found.pidfd.fd);
    return init;
  }

  /** What the runtime has for an adopted one. */
  adoptState(state: InitState): void {
    this.#state = state;
  }

  /** How it ends; resolves before that is written down. */
  async untilExit(): Promise<ProcessEnd> {
    const { exits } = this.#shim;
    if (this.#adopted && this.#process !== undefined) return exits.watchOrphan(this.#process, this.#pidfd?.fd ?? -1);
    const { pid, code, exitedAt } = await exits.watch(this.#pid);
    return { pid, status: code, exitedAt, start: this.#process?.start ?? "" };
  }

  get pid(): number {
    return this.#pid;
  }

  get end(): ProcessEnd | undefined {
    return this.#end;
  }

  get ended(): Promise<ProcessEnd> {
    return this.#ended.promise;
  }

  get state(): InitState {
    return this.#state;
  }

  get status(): ProcessStatus {
    if (this.#pausing) return "pausing";
    switch (this.#state.kind) {
      case "created":
      case "created-checkpoint":
        return "created";
      case "running":
      case "paused":
        return this.#state.kind;
      case "stopped":
      case "deleted":
        return "stopped";
    }
  }

  /** @param started called once it runs, before its end can be told to anybody. */
  start(started: () => void): Promise<void> {
    return this.#mutex.run(async () => {
      const state = this.#state;
      switch (state.kind) {
        case "created":
          await this.#shortly(releaseInit, () =>
            this.#call("OCI runtime start failed", () => this.runtime.start(this.id)),
          );
          break;
        case "created-checkpoint":
          await this.#restore(state.restore);
          break;
        case "running":
        case "paused":
        case "stopped":
        case "deleted":
          throw classified("unknown", `cannot start a ${state.kind} process`);
      }
      this.#state = { kind: "running" };
      this.#request.journal.write({ what: "started" });
      started();
    });
  }

  pause(): Promise<void> {
    return this.#mutex.run(async () => {
      const { kind } = this.#state;
      if (kind !== "running") throw this.#refusal("pause", kind);
      this.#pausing = true;
      try {
        await this.#call("OCI runtime pause failed", () => this.runtime.pause(this.id));
        this.#state = { kind: "paused" };
      } finally {
        this.#pausing = false;
      }
    });
  }

  resume(): Promise<void> {
    return this.#mutex.run(async () => {
      const { kind } = this.#state;
      if (kind === "running") throw classified("unknown", "cannot resume a running process");
      if (kind !== "paused") throw this.#refusal("resume", kind);
      await this.#call("OCI runtime resume failed", () => this.runtime.resume(this.id));
      this.#state = { kind: "running" };
    });
  }

  /** @param resources OCI LinuxResources as JSON. */
  update(resources: Uint8Array): Promise<void> {
    return this.#mutex.run(async () => {
      const { kind } = this.#state;
      if (kind === "stopped") throw classified("unknown", "cannot update a stopped container");
      if (kind === "deleted") throw classified("unknown", "cannot update a deleted process");
      await this.runtime.update(this.id, resources);
    });
  }

  checkpoint(path: string, options: CheckpointOptions): Promise<void> {
    return this.#mutex.run(async () => {
      const { kind } = this.#state;
      if (kind === "created" || kind === "created-checkpoint") {
        throw classified("unknown", "cannot checkpoint a task in created state");
      }
      if (kind === "stopped") throw classified("unknown", "cannot checkpoint a stopped container");
      if (kind === "deleted") throw classified("unknown", "cannot checkpoint a deleted process");
      await this.#checkpoint(path, options);
    });
  }

  kill(signal: number, all: boolean): Promise<void> {
    return this.#mutex.run(async () => {
      if (this.#state.kind === "deleted") {
        throw classified("not-found", "cannot kill a deleted process: not found");
      }
      if (this.#state.kind === "stopped" && !all && (await this.#known)?.privatePids === true) throw alreadyFinished();
      const byRuntime = async (): Promise<void> => {
        await this.runtime.kill(this.id, signal, all).catch((error: unknown) => {
          throw killError(error);
        });
      };
      const running = !all && (this.#state.kind === "running" || this.#state.kind === "created");
      await (running ? this.#shortly((known) => signalInit(known, signal), byRuntime) : byRuntime());
    });
  }

  /** Ends everything in the container, for when its end of init does not do so. */
  killAll(): Promise<void> {
    return this.#call("OCI runtime killall failed", () => this.runtime.kill(this.id, SIGKILL, true));
  }

  delete(): Promise<void> {
    return this.#mutex.run(async () => {
      const { kind } = this.#state;
      if (kind === "running" || kind === "paused") throw classified("unknown", `cannot delete a ${kind} process`);
      if (kind === "deleted") throw classified("not-found", "cannot delete a deleted process: not found");
      await this.#closeStreams();
      try {
        const byRuntime = (): Promise<void> => this.runtime.delete(this.id, false, AbortSignal.timeout(DELETE_MS));
        // Before init has been reaped runc has a word to say on it.
        await (this.#end === undefined ? byRuntime() : this.#shortly(removeState, byRuntime));
      } catch (error) {
        // A runtime that has forgotten it already (after a checkpoint) is fine; we still hold its streams.
        if (!isMissingContainer(error)) await this.#removeByForce(error);
      }
      this.#state = { kind: "deleted" };
      this.#pidfd?.close();
    });
  }

  async resize(size: { readonly width: number; readonly height: number }): Promise<void> {
    if (this.#streams?.kind === "console") this.#streams.console.resize(size.width, size.height);
  }

  closeStdin(): void {
    if (!this.#stdinDone) this.#request.journal.write({ what: "stdin-closed", exec: "" });
    this.#stdinDone = true;
    closeInput(this.#streams);
  }

  /** Throws unless an exec may be added now. */
  assertTakesExecs(): void {
    const { kind } = this.#state;
    switch (kind) {
      case "created":
      case "running":
        return;
      case "created-checkpoint":
        throw classified("unknown", "cannot exec in a created state");
      case "paused":
      case "stopped":
        throw classified("unknown", `cannot exec in a ${kind} state`);
      case "deleted":
        throw classified("unknown", "cannot exec in a deleted state");
    }
  }

  /**
   * Records the end of init: in the bundle, synced, then here. Whether it was news (a deleted container has no more
   * events to send).
   */
  setEnded(end: ProcessEnd): Promise<boolean> {
    return this.#mutex.run(async () => {
      if (this.#end !== undefined) return false;
      const { kind } = this.#state;
      if (kind !== "deleted") {
        this.#request.journal.writeExit("", end);
        await writeExitRecord(this.#request.bundle, end).catch((error: unknown) =>
          this.#shim.log.error("failed to write exit record", { id: this.id, error: messageOf(error) }),
        );
      }
      this.#shim.exits.recorded(end.pid);
      if (kind === "paused") {
        await this.runtime
          .resume(this.id)
          .catch((error: unknown) =>
            this.#shim.log.error("resuming exited container from paused state", { error: messageOf(error) }),
          );
      }
      this.#end = end;
      if (kind !== "deleted") this.#state = { kind: "stopped" };
      this.#ended.resolve(end);
      return kind !== "deleted";
    });
  }

  /** Under our daemon a delete always comes to an end; elsewhere the peer's answer is what clients expect. */
  async #removeByForce(error: unknown): Promise<void> {
    if (!this.#shim.deposits.enabled) throw runtimeError("failed to delete task", error);
    const { log } = this.#shim;
    log.warn("the runtime failed to delete a container, removing it by force", {
      id: this.id,
      error: messageOf(error),
    });
    const { removeByForce } = await import("./removal.ts");
    await removeByForce(this.#removal());
  }

  #removal(): Removal {
    return { id: this.id, bundle: this.#request.bundle, runtime: this.runtime, cgroup: undefined, log: this.#shim.log };
  }

  #refusal(verb: string, kind: InitState["kind"]): Error {
    switch (kind) {
      case "created":
      case "created-checkpoint":
        return classified("unknown", `cannot ${verb} task in created state`);
      case "running":
      case "paused":
      case "stopped":
        return classified("unknown", `cannot ${verb} a ${kind} container`);
      case "deleted":
        return classified("unknown", `cannot ${verb} a deleted process`);
    }
  }

  async #create(): Promise<void> {
    const { bundle, options, checkpoint } = this.#request;
    const call = {
      bundle,
      pidFile: join(bundle, BUNDLE.initPid),
      noPivotRoot: options.noPivotRoot,
      noNewKeyring: options.noNewKeyring,
    };
    if (checkpoint !== "") {
      const workPath = options.criuWorkPath === "" ? join(bundle, BUNDLE.work) : options.criuWorkPath;
      const restore = { ...call, imagePath: checkpoint, workPath, parentPath: this.#request.parentCheckpoint };
      this.#state = { kind: "created-checkpoint", restore };
      return;
    }
    await this.#shim.exits.expectingChild(() =>
      this.#withStreams("OCI runtime create failed", (streams) =>
        this.runtime.create(this.id, { ...call, ...streams }),
      ),
    );
    // Read while the client comes back to start it.
    this.#known = knownState(this.runtime.settings, this.id, this.#pid);
  }

  /** Does what runc would, when that is known to be all there is to it; else has the runtime do it. */
  async #shortly(short: (known: KnownState) => Promise<boolean>, byRuntime: () => Promise<void>): Promise<void> {
    const known = await this.#known;
    if (known === undefined || !(await short(known))) await byRuntime();
  }

  async #restore(restore: Omit<RestoreCall, "consoleSocket" | "stdio">): Promise<void> {
    const { CRIU_CONFIG_VARIABLE, writeRestoreConfig } = await import("./criu-streams.ts");
    const config = join(this.#request.bundle, BUNDLE.criuConfig);
    const env = (await writeRestoreConfig(config, restore.imagePath)) ? { [CRIU_CONFIG_VARIABLE]: config } : {};
    try {
      await this.#shim.exits.expectingChild(() =>
        this.#withStreams("OCI runtime restore failed", (streams) =>
          this.runtime.restore(this.id, { ...restore, ...streams, env }),
        ),
      );
    } catch (error) {
      throw await withCriuReason(error, join(restore.workPath, "restore.log"));
    }
  }

  /** Opens the streams, calls the runtime with them, takes the terminal, begins copying and reads the pid. */
  async #withStreams(
    doing: string,
    call: (streams: { readonly consoleSocket?: string; readonly stdio: ProcessIo["stdio"] }) => Promise<void>,
  ): Promise<void> {
    const { bundle, options, names } = this.#request;
    this.#streams = await openStreams(
      { ...this.#shim, names, id: this.id, direct: true, uid: options.ioUid, gid: options.ioGid, kept: this.#kept },
      (streams) => this.#call(doing, () => call(streams)),
    );
    if (this.#stdinDone) closeInput(this.#streams);
    try {
      this.#pid = readPidFile(join(bundle, BUNDLE.initPid));
    } catch (error) {
      throw classified("unknown", `failed to retrieve OCI runtime container pid: ${messageOf(error)}`, {
        cause: error,
      });
    }
    this.#process = nameOf(this.#pid);
    if (this.#process === undefined) return;
    this.#request.journal.write({ what: "init", ...this.#process });
    this.#pidfd = new OwnedFd(openPidfd(this.#pid));
    this.#kept.keepProcess(this.#process, this.#pidfd.fd);
  }

  async #checkpoint(path: string, options: CheckpointOptions): Promise<void> {
    const { bundle } = this.#request;
    const ownWork = options.workPath === "";
    const workPath = ownWork ? join(bundle, BUNDLE.work, "criu-work") : options.workPath;
    const { CRIU_CONFIG_VARIABLE, externalStreams, keepStreams, writeDumpConfig } = await import("./criu-streams.ts");
    // Those that cannot be listed (an older runtime, a paused one) are found at init.
    const pids = await this.runtime.ps(this.id).catch(() => [this.#pid]);
    const streams = await externalStreams(pids, this.names);
    const config = join(bundle, BUNDLE.criuConfig);
    if (streams.length > 0) {
      await writeDumpConfig(config, streams);
      // Before: after a checkpoint that ends the container nothing may fail any more.
      await mkdir(path, { recursive: true, mode: 0o700 });
      await keepStreams(path, streams);
    }
    try {
      await this.runtime.checkpoint(this.id, {
        ...(streams.length > 0 ? { env: { [CRIU_CONFIG_VARIABLE]: config } } : {}),
        imagePath: path,
        workPath,
        leaveRunning: !options.exit,
        openTcp: options.openTcp,
        externalUnixSockets: options.externalUnixSockets,
        terminal: options.terminal,
        fileLocks: options.fileLocks,
        emptyNamespaces: options.emptyNamespaces,
        cgroupsMode: options.cgroupsMode,
      });
    } catch (error) {
      const dump = join(bundle, "criu-dump.log");
      await copyFile(join(workPath, "dump.log"), dump).catch((cause: unknown) =>
        this.#shim.log.error("failed to copy dump.log to criu-dump.log", { error: messageOf(cause) }),
      );
      const [firstLine = ""] = messageOf(error).split("\n");
      // The log goes with the container, so what it says of the cause is told now.
      throw await withCriuReason(classified("unknown", `${firstLine} path= ${dump}`, { cause: error }), dump);
    } finally {
      if (ownWork) await rm(workPath, { recursive: true, force: true });
    }
  }

  async #closeStreams(): Promise<void> {
    const streams = this.#streams;
    if (streams === undefined) return;
    if (!(await closeStreams(streams))) this.#shim.log.error(`failed to drain init process ${this.id} io`);
  }

  async #call(doing: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      throw error instanceof RuntimeError ? runtimeError(doing, error) : error;
    }
  }
}

export interface StreamOptions {
  readonly names: StdioNames;
  readonly id: string;
  readonly namespace: string;
  readonly direct: boolean;
  readonly uid: number;
  readonly gid: number;
  readonly env: Readonly<Record<string, string>>;
  readonly kept: ProcessDeposits;
}

/** Opens a process's streams around the runtime's call; nothing stays open when that fails. */
export async function openStreams(
  options: StreamOptions,
  call: (streams: { readonly consoleSocket?: string; readonly stdio: ProcessIo["stdio"] }) => Promise<void>,
): Promise<ProcessStreams> {
  options.kept.flush();
  if (options.names.terminal) {
    return withConsoleSocket(options.env, async (socket) => {
      await call({ consoleSocket: socket.path, stdio: NO_STDIO });
      return { kind: "console", console: await ProcessConsole.receive(socket, options) };
    });
  }
  const io = await openProcessIo(options);
  options.kept.flush();
  try {
    await call({ stdio: io.stdio });
  } catch (error) {
    await io.close();
    throw error;
  }
  io.started();
  return { kind: "pipes", io };
}

/** Goes on with the streams of a process that another shim began. */
export async function adoptStreams(options: StreamOptions, adoption: Adoption): Promise<ProcessStreams | undefined> {
  if (!options.names.terminal) return { kind: "pipes", io: await adoptProcessIo(options, adoption) };
  const console = await ProcessConsole.adopt(options, adoption);
  return console === undefined ? undefined : { kind: "console", console };
}

/** Waits a while for output to be copied, then frees the streams. Whether all output was copied. */
export async function closeStreams(streams: ProcessStreams): Promise<boolean> {
  const source = streams.kind === "console" ? streams.console : streams.io;
  const complete = await settledWithin(source.drained, DRAIN_TIMEOUT_MS);
  await source.close();
  return complete;
}

/** Closes our hold on a process's input. */
export function closeInput(streams: ProcessStreams | undefined): void {
  if (streams?.kind === "console") streams.console.closeStdin();
  else streams?.io.closeStdin();
}
