import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { classified, messageOf } from "@stevedore/base/errors";
import { type Cgroup, OomWatch, processCgroup } from "@stevedore/os/cgroup";
import { MNT, type MountStep, mountAllMapped, unmountRecursive } from "@stevedore/os/mount";
import { BUNDLE, readSpecFacts, type SpecFacts, writeOptions } from "./bundle.ts";
import { ExecProcess } from "./exec-process.ts";
import { InitProcess } from "./init-process.ts";
import { Journal, type JournalOptions } from "./journal.ts";
import type { RuncOptions } from "./options.ts";
import { type ContainerProcess, type ProcessEnd, type ShimContext, settledWithin } from "./process.ts";
import type { StdioNames } from "./stdio/target.ts";
import { traceStep } from "./trace.ts";

export interface ContainerRequest {
  readonly id: string;
  readonly bundle: string;
  readonly rootfs: readonly MountStep[];
  readonly names: StdioNames;
  readonly options: RuncOptions;
  readonly checkpoint: string;
  readonly parentCheckpoint: string;
}

export interface ExecAddition {
  readonly id: string;
  readonly names: StdioNames;
  readonly spec: Uint8Array;
}

/** After which time a container's processes that outlive init are killed once more, milliseconds. */
const KILL_AGAIN_MS = 500;

/** A container of this shim: its init, its execs, and the files in its bundle. */
export class Container {
  readonly id: string;
  readonly bundle: string;
  readonly init: InitProcess;
  readonly journal: Journal;
  readonly #shim: ShimContext;
  readonly #options: RuncOptions;
  /** The rootfs we mounted, "" when the client brings its own. */
  readonly #rootfs: string;
  readonly #execs = new Map<string, ExecProcess>();
  /** Execs that have been asked to start and have not ended. */
  #runningExecs = 0;
  #whenNoExecs: (() => void)[] = [];
  #initEnded = false;
  #facts: Promise<SpecFacts> | undefined;
  #cgroup: Cgroup | undefined;
  #oom: OomWatch | undefined;

  private constructor(
    request: Pick<ContainerRequest, "id" | "bundle" | "options">,
    init: InitProcess,
    made: { readonly rootfs: string; readonly shim: ShimContext; readonly journal: Journal },
  ) {
    this.journal = made.journal;
    this.id = request.id;
    this.bundle = request.bundle;
    this.init = init;
    this.#options = request.options;
    this.#rootfs = made.rootfs;
    this.#shim = made.shim;
  }

  /** Mounts the rootfs and has the runtime make the container. Everything is undone when that fails. */
  static async create(request: ContainerRequest, shim: ShimContext): Promise<Container> {
    const { bundle } = request;
    let rootfs = "";
    if (request.rootfs.length > 0) {
      rootfs = join(bundle, BUNDLE.rootfs);
      await mkdir(rootfs, { mode: 0o711 }).catch((error: unknown) => {
        if (!(error instanceof Error && "code" in error && error.code === "EEXIST")) throw error;
      });
    }
    await writeOptions(bundle, request.options);
    await using undo = new AsyncDisposableStack();
    const deposits = shim.deposits.of(request.id, "");
    const journal = undo.use(openJournal(request, shim));
    undo.defer(() => deposits.forgetAll());
    journal.write({ what: "create", io: request.names, rootfs: rootfs !== "", checkpoint: request.checkpoint !== "" });
    deposits.keepJournal(journal.fd);
    if (rootfs !== "") {
      try {
        const attributes = { "mount.target": rootfs, "mount.count": request.rootfs.length };
        await traceStep("mount.all", attributes, async () => mountAllMapped(request.rootfs, rootfs));
      } catch (error) {
        throw classified("unknown", `failed to mount rootfs component: ${messageOf(error)}`, { cause: error });
      }
      undo.defer(() => {
        unmountRootfs(rootfs, shim);
      });
    }
    const init = await InitProcess.create({ ...request, journal }, shim);
    undo.move();
    const container = new Container(request, init, { rootfs, shim, journal });
    container.#begin();
    return container;
  }

  /** Goes on with a container that another shim, now dead, began. */
  static adopt(
    request: Pick<ContainerRequest, "id" | "bundle" | "options">,
    init: InitProcess,
    made: { readonly rootfs: boolean; readonly shim: ShimContext; readonly journal: Journal },
  ): Container {
    const rootfs = made.rootfs ? join(request.bundle, BUNDLE.rootfs) : "";
    const container = new Container(request, init, { ...made, rootfs });
    made.shim.deposits.of(request.id, "").keepJournal(made.journal.fd);
    container.#begin();
    return container;
  }

  #begin(): void {
    void this.cgroup; // looked up while init is there
    // Known before the end of init, which waits for nothing then. A failure shows there.
    this.#readFacts().catch(() => undefined);
  }

  /** A process by exec id; "" is init. @throws not-found in the peer's words */
  process(execId: string): ContainerProcess {
    return execId === "" ? this.init : this.exec(execId);
  }

  exec(execId: string): ExecProcess {
    const found = this.#execs.get(execId);
    if (found === undefined) throw classified("not-found", `process does not exist ${execId}: not found`);
    return found;
  }

  get execs(): readonly ExecProcess[] {
    return [...this.#execs.values()];
  }

  /** Adds an exec. @throws already-exists for an id in use; the reason when no exec may be added now */
  addExec(request: ExecAddition): ExecProcess {
    if (this.#execs.has(request.id)) throw classified("already-exists", `id ${request.id}: already exists`);
    this.init.assertTakesExecs();
    const exec = this.#addExec(request);
    this.journal.write({ what: "exec", exec: request.id, io: request.names, spec: exec.spec });
    return exec;
  }

  /** Enters an exec of a shim that is dead, as its journal had it. */
  adoptExec(request: ExecAddition): ExecProcess {
    return this.#addExec(request);
  }

  #addExec(request: ExecAddition): ExecProcess {
    const { ioUid: uid, ioGid: gid } = this.#options;
    const { bundle, journal } = this;
    const exec = new ExecProcess({ ...request, bundle, uid, gid, journal }, this.init, this.#shim);
    this.#execs.set(request.id, exec);
    return exec;
  }

  /** Waits for the end of an exec that another shim began. */
  watchAdopted(exec: ExecProcess, ended: (end: ProcessEnd) => void): void {
    this.#runningExecs++;
    void this.#untilExecEnds(exec, exec.untilExit(), ended);
  }

  /**
   * Starts an exec. `ended` is called after its end has been recorded.
   *
   * @throws failed-precondition once init has ended.
   */
  async startExec(
    execId: string,
    told: { readonly started: (pid: number) => void; readonly ended: (end: ProcessEnd) => void },
  ): Promise<number> {
    const exec = this.exec(execId);
    if (this.#initEnded) {
      throw classified("failed-precondition", `container ${this.id} init process is not running: failed precondition`);
    }
    this.#runningExecs++;
    try {
      const { exits } = this.#shim;
      const [pid, exit] = await exits.expectingChild(async () => {
        const started = await exec.start(told.started);
        return [started, exec.untilExit()] as const;
      });
      void this.#untilExecEnds(exec, exit, told.ended);
      return pid;
    } catch (error) {
      this.#execGone();
      throw error;
    }
  }

  async #untilExecEnds(exec: ExecProcess, exit: Promise<ProcessEnd>, ended: (end: ProcessEnd) => void): Promise<void> {
    const end = await exit;
    await exec.setEnded(end);
    ended(end);
    this.#execGone();
  }

  /** Tells of out-of-memory kills from now on until the container is deleted. */
  watchOom(killed: () => void): void {
    const { cgroup } = this;
    if (cgroup === undefined) return;
    try {
      this.#oom ??= new OomWatch(cgroup, killed);
    } catch (error) {
      this.#shim.log.error("add cg to OOM monitor", { id: this.id, error: messageOf(error) });
    }
  }

  /** The cgroup init is in; known from its creation on, so that it outlives init. */
  get cgroup(): Cgroup | undefined {
    if (this.#cgroup === undefined && this.init.pid > 0 && this.init.end === undefined) {
      try {
        this.#cgroup = processCgroup(this.init.pid);
      } catch (error) {
        this.#shim.log.error("loading cgroup", { id: this.id, error: messageOf(error) });
      }
    }
    return this.#cgroup;
  }

  /** Handles the end of init: everything else in the container ends before, and is told of before. */
  async initEnded(end: ProcessEnd): Promise<boolean> {
    this.#initEnded = true;
    this.#oom?.check();
    const mustKill = await this.#mustKillRest();
    if (mustKill) await this.#killRest();
    if (this.#runningExecs > 0) {
      const none = new Promise<void>((resolve) => this.#whenNoExecs.push(resolve));
      // An exec that the runtime was starting just then has missed it, and no namespace's end ends it.
      if (mustKill) while (!(await settledWithin(none, KILL_AGAIN_MS))) await this.#killRest();
      else await none;
    }
    return this.init.setEnded(end);
  }

  async #killRest(): Promise<void> {
    await this.init
      .killAll()
      .catch((error: unknown) =>
        this.#shim.log.error("failed to kill init's children", { id: this.id, error: messageOf(error) }),
      );
  }

  /** Deletes a process: an exec, or init with everything the container has. */
  async delete(execId: string): Promise<ContainerProcess> {
    const found = this.process(execId);
    await found.delete();
    if (execId !== "") this.#execs.delete(execId);
    else {
      this.#oom?.[Symbol.dispose]();
      this.unmountRootfs();
      this.forget();
    }
    return found;
  }

  /** Gives up what is kept of it, here and with the keeper. */
  forget(): void {
    for (const exec of this.#execs.values()) exec.abandon();
    this.#shim.deposits.of(this.id, "").forgetAll();
    this.journal[Symbol.dispose]();
  }

  /** Whether the end of init leaves other processes of the container running. */
  async #mustKillRest(): Promise<boolean> {
    try {
      return !(await this.#readFacts()).privatePidNamespace;
    } catch (error) {
      this.#shim.log.error("failed to read config.json", { id: this.id, error: messageOf(error) });
      return true;
    }
  }

  #readFacts(): Promise<SpecFacts> {
    this.#facts ??= readSpecFacts(this.bundle);
    return this.#facts;
  }

  /** Whether all processes must be killed by name when the shim goes: as at the end of init. */
  mustKillRest(): Promise<boolean> {
    return this.#mustKillRest();
  }

  /** Unmounts what create mounted. */
  unmountRootfs(): void {
    if (this.#rootfs !== "") unmountRootfs(this.#rootfs, this.#shim);
  }

  #execGone(): void {
    this.#runningExecs--;
    if (this.#runningExecs > 0) return;
    for (const tell of this.#whenNoExecs.splice(0)) tell();
  }
}

/** The journal of a container, deposited with the keeper whenever it is another file. */
export function openJournal(
  { id, bundle }: { readonly id: string; readonly bundle: string },
  shim: ShimContext,
  lines: Pick<JournalOptions, "lines"> = {},
): Journal {
  if (!shim.deposits.enabled) return Journal.none(shim.log);
  const replaced = (fd: number): void => shim.deposits.of(id, "").keepJournal(fd);
  return Journal.open(bundle, { log: shim.log, replaced, ...lines });
}

/** Unmounts a rootfs; one in use is detached, so that the container's end is never held up by it. */
export function unmountRootfs(rootfs: string, shim: Pick<ShimContext, "log">): void {
  try {
    unmountRecursive(rootfs);
  } catch (error) {
    shim.log.warn("failed to cleanup rootfs mount, retrying with MNT_DETACH", { error: messageOf(error) });
    try {
      unmountRecursive(rootfs, { flags: MNT.DETACH });
    } catch (again) {
      shim.log.warn("failed to cleanup rootfs mount with MNT_DETACH", { error: messageOf(again) });
    }
  }
}
