import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { encodeText } from "@stevedore/base/bytes";
import { messageOf } from "@stevedore/base/errors";
import type { Taken } from "@stevedore/keeper/client";
import { PIDFD, type ProcessName } from "@stevedore/keeper/protocol";
import { OwnedFd } from "@stevedore/os/fd";
import { openPidfd } from "@stevedore/os/pidfd";
import { readExitRecord, readOptions, readPidFile } from "./bundle.ts";
import { Container, openJournal } from "./container.ts";
import type { ExecProcess } from "./exec-process.ts";
import { nameOf } from "./exits.ts";
import { adoptStreams, InitProcess, type InitState, type ProcessStreams } from "./init-process.ts";
import { type JournalProcess, type JournalState, readJournal } from "./journal.ts";
import type { RuncOptions } from "./options.ts";
import type { ProcessEnd, ShimContext } from "./process.ts";
import { isMissingContainer } from "./runc/errors.ts";
import { untilRuntimeEnded } from "./runtime-calls.ts";

/** An exec that came with a container. */
export interface AdoptedExecProcess {
  readonly exec: ExecProcess;
  /** How it ended; undefined while it runs. */
  readonly end: ProcessEnd | undefined;
  readonly told: boolean;
}

/** Something that happened to a container: to an exec, or to init (""). */
export interface RecentEvent {
  readonly what: "created" | "started" | "paused" | "resumed";
  readonly exec: string;
  readonly pid: number;
  readonly at: Date;
}

/**
 * For how long before the adoption events are told again, milliseconds: a shim gives up an event it cannot deliver after less than
 * a minute, and of much older ones the daemon may no longer know that it was told.
 */
const RECENT_MS = 60_000;

/** A container of a dead shim, ready to go on here. */
export interface AdoptedContainer {
  readonly container: Container;
  /** Execs that have been started; those that only were added need nothing. */
  readonly execs: readonly AdoptedExecProcess[];
  /** How init ended; undefined while it runs, or when that is still to be found out. */
  readonly end: ProcessEnd | undefined;
  /** Whether the end of init was told; else it has not been handled at all. */
  readonly told: boolean;
  /** What happened so lately that the daemon may not have been told of it, in order; it leaves out what it was told. */
  readonly recent: readonly RecentEvent[];
  /** What could not be taken over, in words. */
  readonly lost: readonly string[];
}

/**
 * Takes over a container from its journal, the runtime's state and what the keeper holds.
 *
 * @returns undefined when the container was never made.
 */
export async function adoptContainer(
  request: { readonly id: string; readonly bundle: string },
  shim: ShimContext,
): Promise<AdoptedContainer | undefined> {
  const { id, bundle } = request;
  await untilRuntimeEnded(bundle, shim.log);
  const state = await readJournal(bundle);
  const process = state?.init.process;
  if (state === undefined || process === undefined) return undefined;
  const options = await readOptions(bundle);
  const taken = await shim.deposits.take(id);
  const lost: string[] = [];
  try {
    return await new Adopter({ id, bundle, options, state, taken, lost, shim }).adopt(process);
  } finally {
    // What was used has been released.
    for (const { fds } of taken) for (const fd of fds.values()) fd[Symbol.dispose]();
  }
}

interface Findings {
  readonly id: string;
  readonly bundle: string;
  readonly options: RuncOptions;
  readonly state: JournalState;
  readonly taken: readonly Taken[];
  readonly lost: string[];
  readonly shim: ShimContext;
}

class Adopter {
  readonly #found: Findings;

  constructor(found: Findings) {
    this.#found = found;
  }

  async adopt(process: ProcessName): Promise<AdoptedContainer> {
    const { id, bundle, options, state, lost, shim } = this.#found;
    const journal = openJournal({ id, bundle }, shim, state);
    const end = await this.#endOf("", state.init, process);
    const streams = await this.#streams("", state.init, true);
    const request = { id, bundle, options, names: state.init.io, checkpoint: "", parentCheckpoint: "", journal };
    const init = InitProcess.adopt(request, shim, {
      process,
      pidfd: this.#pidfd("", process),
      state: { kind: "stopped" },
      streams,
      stdinDone: state.init.stdinClosed,
    });
    const container = Container.adopt(request, init, { rootfs: state.rootfs, shim, journal });
    // An exit that nobody was told of is still to be handled: what else runs in the container ends first.
    const isOver = end !== undefined && state.init.told;
    const kind = isOver ? "stopped" : await this.#runtimeState(init);
    init.adoptState({ kind });
    if (isOver) await init.setEnded(end);
    if (!state.started && (kind === "running" || kind === "paused")) {
      journal.write({ what: "started" });
      state.init.startedAt = Date.now();
    }
    const execs: AdoptedExecProcess[] = [];
    for (const [execId, one] of state.execs) {
      const exec = container.adoptExec({ id: execId, names: one.io, spec: encodeText(one.spec) });
      const running = one.process ?? (one.starting ? await this.#cutOffExec(execId, process) : undefined);
      if (running === undefined) {
        if (one.starting) {
          exec.adoptFailed();
          lost.push(`exec ${execId}: its start was cut off`);
        }
        continue;
      }
      if (one.process === undefined) {
        journal.write({ what: "exec-pid", exec: execId, ...running });
        one.process = running;
        one.startedAt = Date.now();
      }
      exec.adopt({
        process: running,
        pidfd: this.#pidfd(execId, running),
        streams: await this.#streams(execId, one, false),
        stdinDone: one.stdinClosed,
      });
      const execEnd = await this.#endOf(execId, one, running);
      if (execEnd !== undefined) await exec.setEnded(execEnd);
      execs.push({ exec, end: execEnd, told: one.told });
    }
    return { container, execs, end, told: state.init.told, recent: recentOf(state, process), lost };
  }

  /** The exit that was written down, or that the keeper saw. */
  async #endOf(exec: string, found: JournalProcess, process: ProcessName): Promise<ProcessEnd | undefined> {
    if (found.exit !== undefined) return found.exit;
    const kept = this.#taken(exec)?.exit;
    if (kept !== undefined && kept.pid === process.pid && kept.start === process.start) {
      const { pid, start, code: status, at } = kept;
      return { pid, start, status, exitedAt: new Date(at), source: "keeper" };
    }
    if (exec !== "") return undefined;
    const record = await readExitRecord(this.#found.bundle);
    return record?.pid === process.pid ? { ...record, start: process.start } : undefined;
  }

  #taken(exec: string): Taken | undefined {
    return this.#found.taken.find((one) => one.exec === exec);
  }

  /** A pidfd of the process: the keeper's, else one of our own if it still is that process; an empty one otherwise. */
  #pidfd(exec: string, process: ProcessName): OwnedFd {
    const taken = this.#taken(exec);
    const kept = taken?.fds.get(PIDFD);
    if (kept !== undefined && taken?.process?.start === process.start) return new OwnedFd(kept.release());
    let fd: OwnedFd;
    try {
      fd = new OwnedFd(openPidfd(process.pid));
    } catch {
      return new OwnedFd(-1);
    }
    if (nameOf(process.pid)?.start === process.start) return fd;
    fd.close(); // the pid is somebody else's by now
    return new OwnedFd(-1);
  }

  async #streams(exec: string, found: JournalProcess, direct: boolean): Promise<ProcessStreams | undefined> {
    const { id, options, shim, lost } = this.#found;
    const what = exec === "" ? "" : `exec ${exec}: `;
    const { io: names, stdinClosed } = found;
    const taken = this.#taken(exec)?.fds ?? new Map<string, OwnedFd>();
    for (const [name, copied] of [
      ["stdout", "stdout"],
      ["stderr", "stderr"],
      ["pty", "terminal"],
    ] as const) {
      // Nobody can count what the dead shim had read: it is said, as it may be none.
      if (taken.has(name)) lost.push(`${what}${copied}: at most what the dead shim had read and not yet handed on`);
    }
    return adoptStreams(
      {
        ...shim,
        names,
        id: exec === "" ? id : exec,
        direct,
        uid: options.ioUid,
        gid: options.ioGid,
        kept: shim.deposits.of(id, exec),
      },
      { taken, stdinClosed, lost: (text) => lost.push(`${what}${text}`) },
    );
  }

  async #runtimeState(init: InitProcess): Promise<Exclude<InitState["kind"], "created-checkpoint" | "deleted">> {
    const { id, state, shim } = this.#found;
    const assumed = state.started ? "running" : "created";
    try {
      const { status } = await init.runtime.state(id);
      return status === "created" || status === "running" || status === "paused" ? status : assumed;
    } catch (error) {
      if (!isMissingContainer(error)) shim.log.warn("asking the runtime for a state", { id, error: messageOf(error) });
      return assumed;
    }
  }

  /** An exec that the runtime has started while nobody could note its pid: told by the pid file and the cgroup of init. */
  async #cutOffExec(exec: string, init: ProcessName): Promise<ProcessName | undefined> {
    try {
      const pid = readPidFile(join(this.#found.bundle, `${exec}.pid`));
      const name = nameOf(pid);
      const [its, inits] = await Promise.all([cgroupText(pid), cgroupText(init.pid)]);
      return its === inits ? name : undefined;
    } catch {
      return undefined;
    }
  }
}

/** The order of what has the same millisecond. */
const ORDER: readonly RecentEvent["what"][] = ["created", "started", "paused", "resumed"];

function recentOf(state: JournalState, { pid }: ProcessName): RecentEvent[] {
  if (state.init.told) return []; // events go in order: all before it was told
  const found: { what: RecentEvent["what"]; exec: string; pid: number; at: number }[] = [
    { what: "created", exec: "", pid, at: state.init.madeAt },
    { what: "started", exec: "", pid, at: state.init.startedAt },
    ...state.changes.map(({ what, at }) => ({ what, exec: "", pid, at })),
  ];
  for (const [exec, one] of state.execs) {
    if (one.told) continue;
    found.push({ what: "created", exec, pid: 0, at: one.madeAt });
    if (one.process !== undefined) found.push({ what: "started", exec, pid: one.process.pid, at: one.startedAt });
  }
  const since = Date.now() - RECENT_MS;
  return found
    .filter(({ at }) => at > since)
    .toSorted((a, b) => a.at - b.at || ORDER.indexOf(a.what) - ORDER.indexOf(b.what))
    .map((one) => ({ ...one, at: new Date(one.at) }));
}

function cgroupText(pid: number): Promise<string> {
  return readFile(`/proc/${pid}/cgroup`, "utf8");
}
