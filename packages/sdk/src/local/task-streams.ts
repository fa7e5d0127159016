/** The client's end of a task's streams: FIFOs in a private folder, copied to and from this process. */
import { lstat, rm, rmdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { isErrorClass } from "@stevedore/base";
import type { TaskIO } from "@stevedore/core";
import {
  type FifoWriter,
  makeFifo,
  makeFifoFolder,
  openFifoReader,
  openFifoWriter,
  readChunks,
  removeFifoFolder,
} from "@stevedore/os/fifo";

/** Where containerd's clients put FIFOs when nobody says. */
const DEFAULT_FIFO_FOLDER = "/run/containerd/fifo";

/** Streams of a process that goes to nobody. */
export const NULL_IO: TaskIO = { stdin: "", stdout: "", stderr: "", terminal: false };

/** Streams that a shim hands to a logger: `binary://`, `file://` or `fifo://`. */
export function logUriIo(uri: string, options: { readonly terminal: boolean }): TaskIO {
  return { stdin: "", stdout: uri, stderr: options.terminal ? "" : uri, terminal: options.terminal };
}

export interface TaskStreamOptions {
  /** Names the FIFOs: the container's id or the exec's. */
  readonly id: string;
  /** Folder for the FIFOs' own folder; absent: containerd's. */
  readonly folder?: string;
  readonly terminal: boolean;
  /** Bytes for the process; absent: it gets none. */
  readonly stdin?: AsyncIterable<Uint8Array>;
  /** Take what the process prints. They must not throw. */
  readonly stdout: (bytes: Uint8Array) => void;
  readonly stderr: (bytes: Uint8Array) => void;
  /** Called once when `stdin` has ended and all of it was written. */
  readonly stdinEnded?: () => Promise<void>;
  /**
   * Output is handed on from this moment; what comes before waits in the FIFO, and is dropped when the streams are disposed
   * without it. Absent: from the start.
   */
  readonly ready?: Promise<void>;
}

/** Running copies of a process's streams. Dispose it to stop them and to remove the FIFOs. */
export interface TaskStreams extends AsyncDisposable {
  /** What to tell the daemon. */
  readonly io: TaskIO;
  /** Resolves when all that the process printed has been handed on. */
  readonly drained: Promise<void>;
}

/**
 * Makes the FIFOs and opens them; the opens wait for the shim. Create the task with `io` afterwards, await `drained` after
 * the process has ended, then dispose.
 */
export function openTaskStreams(options: TaskStreamOptions): TaskStreams {
  const parent = options.folder ?? DEFAULT_FIFO_FOLDER;
  const folder = makeFifoFolder(parent);
  const path = (stream: string): string => join(folder, `${options.id}-${stream}`);
  const io: TaskIO = {
    stdin: options.stdin === undefined ? "" : path("stdin"),
    stdout: path("stdout"),
    stderr: options.terminal ? "" : path("stderr"),
    terminal: options.terminal,
  };
  return startCopies(io, { ...options, remove: () => removeFifoFolder(folder) });
}

/** Joins the FIFOs of a task that runs already. They stay when this is disposed. */
export function joinTaskStreams(
  io: TaskIO,
  options: Omit<TaskStreamOptions, "id" | "folder" | "terminal">,
): TaskStreams {
  return startCopies(io, { ...options, remove: () => undefined });
}

/**
 * Removes the FIFOs of a task that was deleted, and the folder that was made for them; what a logger or another client keeps
 * elsewhere stays. Call it after the deletion: until then the shim has them open.
 */
export async function removeTaskFifos(io: TaskIO): Promise<void> {
  for (const path of [io.stdin, io.stdout, io.stderr]) {
    if (!path.startsWith("/")) continue;
    const found = await lstat(path).catch(() => undefined);
    if (found?.isFIFO() !== true) continue;
    await rm(path, { force: true });
    // Fails while other FIFOs are in it, or when the folder is somebody's own.
    await rmdir(dirname(path)).catch(() => undefined);
  }
}

type Copying = Pick<TaskStreamOptions, "stdin" | "stdout" | "stderr" | "stdinEnded" | "ready"> & {
  readonly remove: () => void;
};

function startCopies(io: TaskIO, options: Copying): TaskStreams {
  const stop = new AbortController();
  for (const path of [io.stdin, io.stdout, io.stderr]) if (path !== "") makeFifo(path);
  const stopped = Promise.withResolvers<void>();
  const when = { signal: stop.signal, ready: Promise.race([options.ready, stopped.promise]) };
  const outputs = [copyOut(io.stdout, options.stdout, when), copyOut(io.stderr, options.stderr, when)];
  const drained = Promise.all(outputs).then(() => undefined);
  // Awaited in dispose as well; a failure there must not count as unhandled before.
  drained.catch(() => undefined);
  const input = copyIn(io.stdin, options, stop.signal);
  input.catch(() => undefined);
  return {
    io,
    drained,
    [Symbol.asyncDispose]: async () => {
      stop.abort();
      stopped.resolve();
      await drained.catch(() => undefined);
      options.remove();
    },
  };
}

async function copyOut(
  path: string,
  take: (bytes: Uint8Array) => void,
  { signal, ready }: { readonly signal: AbortSignal; readonly ready: Promise<void | undefined> },
): Promise<void> {
  if (path === "") return;
  try {
    using fd = await openFifoReader(path, { signal });
    await ready;
    signal.throwIfAborted();
    for await (const chunk of readChunks(fd.release(), { signal })) take(chunk);
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

async function copyIn(path: string, options: Copying, signal: AbortSignal): Promise<void> {
  const { stdin, stdinEnded } = options;
  if (path === "" || stdin === undefined) return;
  let writer: FifoWriter;
  try {
    writer = await openFifoWriter(path, { signal });
  } catch (error) {
    if (signal.aborted) return;
    throw error;
  }
  try {
    for await (const chunk of stdin) {
      if (signal.aborted) return;
      await writer.write(chunk, signal);
    }
    await writer.end();
    await stdinEnded?.();
  } catch (error) {
    // A process that closed its input or has ended reads no more.
    if (!signal.aborted && !isErrorClass(error, "unavailable") && !isErrorClass(error, "not-found")) throw error;
  } finally {
    writer.close();
  }
}
