/** Runs a process to its end with this program's own streams: what `run`, `start`, `exec` and `attach` share. */
import type { RequestContext } from "@stevedore/base";
import type { ExitRecord, ProcessRef, TaskIO } from "@stevedore/core";
import { getWindowSize, isTerminal, makeRaw } from "@stevedore/os/pty";
import type { Client } from "../client.ts";
import { joinTaskStreams, openTaskStreams, type TaskStreams } from "./task-streams.ts";

/** Signals that are passed on: all that end, stop or inform a program and can be caught. */
const FORWARDED: readonly NodeJS.Signals[] = [
  "SIGHUP",
  "SIGINT",
  "SIGQUIT",
  "SIGTERM",
  "SIGUSR1",
  "SIGTSTP",
  "SIGCONT",
];

export interface ForegroundOptions {
  readonly process: ProcessRef;
  readonly terminal: boolean;
  readonly folder?: string;
  readonly stdout: (bytes: Uint8Array) => void;
  readonly stderr: (bytes: Uint8Array) => void;
  /** Creates the process with these streams. */
  readonly create: (io: TaskIO) => Promise<void>;
  /** Called between creation and start. */
  readonly created?: () => Promise<void>;
}

/** @throws failed-precondition when a terminal is asked for and standard input is none */
export function requireTerminal(): void {
  if (!isTerminal(0)) throw new Error("provided file is not a console");
}

/** Creates, starts and awaits a process. Its streams are complete when this resolves; the process is not deleted. */
export async function runInForeground(
  client: Client,
  context: RequestContext,
  options: ForegroundOptions,
): Promise<ExitRecord> {
  const { process: of, terminal } = options;
  if (terminal) requireTerminal();
  await using stack = new AsyncDisposableStack();
  // Input may end before there is a process to tell of it.
  const started = Promise.withResolvers<void>();
  // A shim that gives init the FIFO itself gives it to the runtime too, whose complaint is the daemon's answer already.
  const created = Promise.withResolvers<void>();
  let over = false;
  const streams = stack.use(
    openTaskStreams({
      id: of.execId === "" ? of.containerId : of.execId,
      ...(options.folder === undefined ? {} : { folder: options.folder }),
      terminal,
      stdin: Bun.stdin.stream(),
      stdout: options.stdout,
      stderr: options.stderr,
      ready: created.promise,
      stdinEnded: async () => {
        await started.promise;
        // Which ends with the process anyway: a call less for what is over as soon as it began.
        if (over) return;
        await client.tasks.closeIo(context, of, { stdin: true });
      },
    }),
  );
  await options.create(streams.io);
  created.resolve();
  await options.created?.();
  const exited = client.tasks.wait(context, of);
  // Read below; a failed start must not leave it unhandled.
  exited.catch(() => undefined);
  void (async (): Promise<void> => {
    await exited.catch(() => undefined);
    over = true;
  })();
  if (terminal) stack.defer(makeRaw(0));
  await client.tasks.start(context, of);
  started.resolve();
  if (terminal) stack.use(followWindow(client, context, of));
  else stack.use(forwardSignals(client, context, of));
  return await finish(exited, streams);
}

/** Joins the streams of a process that runs and awaits its end. */
export async function attachToProcess(
  client: Client,
  context: RequestContext,
  options: Pick<ForegroundOptions, "process" | "stdout" | "stderr"> & { readonly io: TaskIO },
): Promise<ExitRecord> {
  const { process: of, io } = options;
  if (io.terminal) requireTerminal();
  await using stack = new AsyncDisposableStack();
  const streams = stack.use(
    joinTaskStreams(io, { stdin: Bun.stdin.stream(), stdout: options.stdout, stderr: options.stderr }),
  );
  if (io.terminal) {
    stack.defer(makeRaw(0));
    stack.use(followWindow(client, context, of));
  } else {
    stack.use(forwardSignals(client, context, of));
  }
  return await finish(client.tasks.wait(context, of), streams);
}

async function finish(exited: Promise<ExitRecord>, streams: TaskStreams): Promise<ExitRecord> {
  const record = await exited;
  await streams.drained;
  return record;
}

/** Tells the process the size of this terminal, now and after each change. */
function followWindow(client: Client, context: RequestContext, of: ProcessRef): Disposable {
  const tell = (): void => {
    const { columns, rows } = getWindowSize(0);
    client.tasks.resizePty(context, of, { width: columns, height: rows }).catch(() => undefined);
  };
  tell();
  process.on("SIGWINCH", tell);
  return { [Symbol.dispose]: () => process.off("SIGWINCH", tell) };
}

/** Passes this program's signals on to the process. */
function forwardSignals(client: Client, context: RequestContext, of: ProcessRef): Disposable {
  const passOn = (_name: string, number: number): void => {
    // A process that is gone already needs no signal; its end is on the way.
    client.tasks.kill(context, of, { number, all: false }).catch(() => undefined);
  };
  for (const signal of FORWARDED) process.on(signal, passOn);
  return {
    [Symbol.dispose]: () => {
      for (const signal of FORWARDED) process.off(signal, passOn);
    },
  };
}
