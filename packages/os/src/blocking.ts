import { setTimeout as sleep } from "node:timers/promises";
import { ClassifiedError, classified, type ErrorClass } from "@stevedore/base/errors";
import type { BlockingCalls } from "./blocking-calls.ts";
import { isErrno, SyscallError } from "./errno.ts";
import { MNT, type MountStep, needsUserNamespaces, type UnmountOptions } from "./mount.ts";
import type { RemoveTreeOptions } from "./path.ts";

/**
 * System calls that may take long (unmount, recursive deletion, syncfs, du), off the loop: they run on threads (Bun
 * Workers) of this process, at most {@link MAX_THREADS}, started when needed (2.4 ms, 2 MB) and ended when idle. An
 * FFI call cannot be interrupted, so a signal only ends the wait for a place in the queue. Same names and errors as the
 * synchronous calls. Figures in docs/decisions/0013-off-the-loop.md.
 */

export interface BlockingRequest {
  readonly id: number;
  readonly name: keyof BlockingCalls;
  readonly args: readonly unknown[];
}

export type BlockingAnswer =
  | { readonly id: number; readonly ok: true; readonly result: unknown }
  | { readonly id: number; readonly ok: false; readonly error: PlainError };

interface PlainError {
  readonly message: string;
  readonly errorClass: ErrorClass;
  readonly errno?: number;
  readonly syscall?: string;
  readonly target?: string;
}

/** One stuck unmount (a dead network file system) must not stop the others; four stuck ones are an operator's case. */
const MAX_THREADS = 4;
/** Requests waiting for a thread; beyond it the machine is in trouble and the caller should hear it. */
const MAX_QUEUE = 4_096;
/** How long an idle thread stays. */
const IDLE_MS = 10_000;

interface Job {
  readonly request: BlockingRequest;
  readonly resolve: (value: unknown) => void;
  readonly reject: (reason: unknown) => void;
}

interface Thread {
  readonly worker: Worker;
  job: Job | undefined;
  idle: ReturnType<typeof setTimeout> | undefined;
}

const threads = new Set<Thread>();
const queue: Job[] = [];
let lastId = 0;

/** The thread's module: beside this file in the sources, by its path below the repository in a compiled binary. */
function workerModule(): string | URL {
  const compiled = import.meta.url.includes("/$bunfs/");
  return compiled ? "./packages/os/src/blocking-worker.js" : new URL("./blocking-worker.ts", import.meta.url);
}

function startThread(): Thread {
  const worker = new Worker(workerModule(), { env: {} });
  const thread: Thread = { worker, job: undefined, idle: undefined };
  threads.add(thread);
  worker.addEventListener("message", (event: MessageEvent<BlockingAnswer>) => finish(thread, event.data));
  const fail = (what: string): void => {
    threads.delete(thread);
    thread.job?.reject(classified("internal", `run ${thread.job.request.name} off the loop: ${what}`));
    thread.job = undefined;
    dispatch();
  };
  worker.addEventListener("error", (event) => fail(event.message));
  worker.addEventListener("close", () => {
    if (threads.has(thread)) fail("its thread ended");
  });
  return thread;
}

function finish(thread: Thread, answer: BlockingAnswer): void {
  const { job } = thread;
  thread.job = undefined;
  if (job !== undefined) {
    if (answer.ok) job.resolve(answer.result);
    else job.reject(revive(answer.error));
  }
  dispatch();
}

function dispatch(): void {
  while (queue.length > 0) {
    const free =
      [...threads].find((thread) => thread.job === undefined) ??
      (threads.size < MAX_THREADS ? startThread() : undefined);
    const job = free === undefined ? undefined : queue.shift();
    if (free === undefined || job === undefined) break;
    clearTimeout(free.idle);
    free.idle = undefined;
    free.job = job;
    free.worker.ref();
    free.worker.postMessage(job.request);
  }
  for (const thread of threads) {
    if (thread.job !== undefined || thread.idle !== undefined) continue;
    thread.worker.unref(); // an idle thread keeps no process alive
    thread.idle = setTimeout(() => {
      threads.delete(thread);
      thread.worker.terminate();
    }, IDLE_MS);
    thread.idle.unref();
  }
}

function revive(error: PlainError): ClassifiedError {
  const { message, errorClass, errno, syscall, target } = error;
  if (errno === undefined || syscall === undefined) return new ClassifiedError(errorClass, message);
  const made = new SyscallError({ syscall, errno, ...(target === undefined ? {} : { target }) });
  made.message = message; // with the detail, which travels only as text
  return made;
}

function call<Name extends keyof BlockingCalls>(
  name: Name,
  args: Parameters<BlockingCalls[Name]>,
  signal?: AbortSignal,
): Promise<ReturnType<BlockingCalls[Name]>> {
  signal?.throwIfAborted();
  if (queue.length >= MAX_QUEUE) {
    throw classified("resource-exhausted", `run ${name} off the loop: ${queue.length} calls are waiting already`);
  }
  const { promise, resolve, reject } = Promise.withResolvers<unknown>();
  const job: Job = { request: { id: ++lastId, name, args }, resolve, reject };
  queue.push(job);
  dispatch();
  const onAbort = (): void => {
    const at = queue.indexOf(job);
    if (at < 0) return; // it runs already, and a system call runs to its end
    queue.splice(at, 1);
    reject(signal?.reason);
  };
  signal?.addEventListener("abort", onAbort);
  const done = promise.finally(() => signal?.removeEventListener("abort", onAbort));
  return done as Promise<ReturnType<BlockingCalls[Name]>>;
}

export interface BlockingOptions {
  readonly signal?: AbortSignal;
}

/** mount.ts `mountAll`, off the loop. Steps with id mappings get their user namespaces by themselves. */
export async function mountAll(
  steps: readonly MountStep[],
  target: string,
  options: BlockingOptions = {},
): Promise<string[]> {
  if (!needsUserNamespaces(steps)) return call("mountAll", [steps, target], options.signal);
  const { UserNamespaces } = await import("./userns.ts");
  using namespaces = await UserNamespaces.for(steps);
  return await call("mountAll", [steps, target, { userNamespaces: namespaces.descriptors }], options.signal);
}

/** How long a busy mount is tried again, and how often: containerd's own bound (50 times 50 ms). */
const BUSY_TRIES = 50;
const BUSY_PAUSE_MS = 50;

async function whileBusy(once: () => Promise<void>, flags: number, signal?: AbortSignal): Promise<void> {
  for (let tries = 0; ; tries++) {
    try {
      return await once();
    } catch (error) {
      if (!isErrno(error, "EBUSY") || (flags & MNT.DETACH) !== 0 || tries >= BUSY_TRIES) throw error;
      await sleep(BUSY_PAUSE_MS, undefined, signal === undefined ? {} : { signal });
    }
  }
}

/** mount.ts `unmount`, off the loop; a busy mount is tried again for 2.5 s. */
export async function unmount(target: string, options: UnmountOptions & BlockingOptions = {}): Promise<void> {
  const { flags = 0, signal } = options;
  await whileBusy(() => call("unmount", [target, flags], signal), flags, signal);
}

/** mount.ts `unmountAll`, off the loop; a busy mount is tried again for 2.5 s. */
export async function unmountAll(target: string, options: UnmountOptions & BlockingOptions = {}): Promise<void> {
  const { signal, flags = 0 } = options;
  await whileBusy(() => call("unmountAll", [target, { flags }], signal), flags, signal);
}

/** mount.ts `unmountRecursive`, off the loop; a busy mount is tried again for 2.5 s. */
export async function unmountRecursive(target: string, options: UnmountOptions & BlockingOptions = {}): Promise<void> {
  const { signal, flags = 0 } = options;
  await whileBusy(() => call("unmountRecursive", [target, { flags }], signal), flags, signal);
}

/** path.ts `removeTree`, off the loop. */
export async function removeTree(path: string, options: RemoveTreeOptions & BlockingOptions = {}): Promise<void> {
  const { signal, ...rest } = options;
  await call("removeTree", [path, rest], signal);
}

/** files.ts `syncFileSystem`, off the loop. */
export async function syncFileSystem(path: string, options: BlockingOptions = {}): Promise<void> {
  await call("syncFileSystem", [path], options.signal);
}

/** disk-usage.ts `diskUsage`, off the loop. */
export function diskUsage(
  path: string,
  options: BlockingOptions = {},
): Promise<ReturnType<BlockingCalls["diskUsage"]>> {
  return call("diskUsage", [path], options.signal);
}

/** copy-tree.ts `copyTree`, off the loop. */
export function copyTree(
  from: string,
  to: string,
  options: BlockingOptions = {},
): Promise<ReturnType<BlockingCalls["copyTree"]>> {
  return call("copyTree", [from, to], options.signal);
}

/** adopt-folders.ts `adoptFolders`, off the loop. */
export function adoptFolders(
  upper: string,
  lowers: readonly string[],
  options: BlockingOptions & { readonly mark: string },
): Promise<number> {
  return call("adoptFolders", [upper, lowers, options.mark], options.signal);
}
