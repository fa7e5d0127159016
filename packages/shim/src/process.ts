import type { Logger } from "@stevedore/base/log";
import type { ExitSource } from "@stevedore/keeper/exit-line";
import type { ProcessName } from "@stevedore/keeper/protocol";
import type { ProcessExit } from "@stevedore/os/process";
import type { Deposits } from "./deposits.ts";
import type { StdioNames } from "./stdio/target.ts";

/** The states of a process as the task API names them. */
export type ProcessStatus = "created" | "running" | "stopped" | "paused" | "pausing";

/** How a process ended. */
export interface ProcessEnd {
  readonly pid: number;
  /** 0 to 255; 128 plus the signal's number after a signal; 255 when nobody can know. */
  readonly status: number;
  readonly exitedAt: Date;
  /** Clock ticks since boot at its start, decimal; absent when that is not known. */
  readonly start?: string;
  /** Who saw it; this shim itself unless given. */
  readonly source?: ExitSource;
  /** Why the status is not known. */
  readonly reason?: string;
}

/** What the service sees of init and execs alike. */
export interface ContainerProcess {
  /** The exec's id, or the container's for init. */
  readonly id: string;
  readonly names: StdioNames;
  /** 0 until it has one. */
  readonly pid: number;
  /** Set once it has ended and that was recorded. */
  readonly end: ProcessEnd | undefined;
  readonly status: ProcessStatus;
  /** Resolves when it has ended. Never rejects. */
  readonly ended: Promise<ProcessEnd>;
  kill(signal: number, all: boolean): Promise<void>;
  delete(): Promise<void>;
  resize(size: { readonly width: number; readonly height: number }): Promise<void>;
  closeStdin(): void;
}

/** Waits for processes that have become children of the shim. */
export interface ExitWatcher {
  /** The exit of `pid`, at once when it is over already. It stays a zombie until {@link ExitWatcher.recorded}. */
  watch(pid: number): Promise<ProcessExit>;
  /** Its exit is written down: nothing is lost when it is reaped now. */
  recorded(pid: number): void;
  /** The exit of a process that another shim, now dead, has begun. `pidfd` is borrowed until then; -1 for none. */
  watchOrphan(process: ProcessName, pidfd: number): Promise<ProcessEnd>;
  /** Runs work that brings a new child, whose pid is learned late: no orphan is reaped meanwhile. */
  expectingChild<T>(work: () => Promise<T>): Promise<T>;
}

/** What processes share with their shim. */
export interface ShimContext {
  readonly namespace: string;
  readonly exits: ExitWatcher;
  readonly log: Logger;
  readonly deposits: Deposits;
  /** The environment of runtimes and loggers. */
  readonly env: Readonly<Record<string, string>>;
}

/** How long delete waits for output to be copied before it cuts it off; the peer's figure. */
export const DRAIN_TIMEOUT_MS = 2_000;

/** Waits for `done` for a limited time; whether it came. */
export async function settledWithin(done: Promise<void>, milliseconds: number): Promise<boolean> {
  const late = Promise.withResolvers<false>();
  const timer = setTimeout(() => late.resolve(false), milliseconds);
  try {
    return await Promise.race([done.then(() => true), late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
