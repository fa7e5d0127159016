import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { classified, ERROR_CLASSES } from "@stevedore/base/errors";
import { SyscallError } from "./errno.ts";
import type { OwnedFd } from "./fd.ts";
import { readChunks } from "./io.ts";
import type { MountStep } from "./mount.ts";
import { awaitDescriptors, SOCK, sendDescriptors, socketPair } from "./socket.ts";
import { findExecutable, spawnChild } from "./spawn.ts";

/**
 * What may not run in a threaded process (entering a namespace, chdir, umask) runs in a process of its own that does one
 * thing and hands descriptors back by SCM_RIGHTS. The namespaces are entered by util-linux's nsenter before our binary
 * starts, so no setns ever meets a thread. Some 10 ms a call, off the loop. See docs/decisions/0014-one-shot-helper.md.
 */

export interface OneShotPlace {
  /** Files of namespaces to enter first, by kind: `{ net: "/run/netns/x" }`. */
  readonly namespaces?: Readonly<Partial<Record<"mount" | "net" | "uts" | "ipc" | "pid" | "cgroup", string>>>;
  /** A new private mount namespace, so that what is mounted there is seen by nobody else. */
  readonly newMountNamespace?: boolean;
  /** Working directory: relative paths of the task mean this. */
  readonly cwd?: string;
  readonly umask?: number;
}

/** What a helper can do. Descriptors come back in the order named. */
export type OneShotTask =
  /** Opens a path. Gives the descriptor. */
  | { readonly op: "open"; readonly path: string; readonly flags: number; readonly mode?: number }
  /** Connects to a TCP address. Gives the connected socket. */
  | { readonly op: "connect-tcp"; readonly host: string; readonly port: number }
  /** Connects to a unix socket. Gives the connected socket. */
  | { readonly op: "connect-unix"; readonly path: string }
  /** Binds a unix socket and listens. Gives the listening socket. */
  | { readonly op: "listen-unix"; readonly path: string; readonly mode?: number }
  /** Performs mounts, relative to `cwd`, and gives an O_PATH descriptor of the target: reachable by it even when the namespace ends. */
  | { readonly op: "mount"; readonly steps: readonly MountStep[]; readonly target: string };

export interface OneShotRequest {
  readonly task: OneShotTask;
  readonly cwd?: string;
  readonly umask?: number;
}

export type OneShotAnswer =
  | { readonly ok: true }
  | {
      readonly ok: false;
      readonly message: string;
      readonly errorClass: string;
      readonly errno?: number;
      readonly syscall?: string;
    };

/** The descriptor number a helper finds its socket at. */
export const ONE_SHOT_SOCKET = 3;

/** The name our binary runs a helper under; whoever dispatches names calls `one-shot-main`. */
export const ONE_SHOT_COMMAND = "os-one-shot";

function helperCommand(): string[] {
  if (import.meta.url.includes("/$bunfs/")) return [process.execPath, ONE_SHOT_COMMAND];
  return [process.execPath, fileURLToPath(new URL("./one-shot-main.ts", import.meta.url))];
}

function command(place: OneShotPlace): string[] {
  const entered = Object.entries(place.namespaces ?? {});
  const enter =
    entered.length === 0
      ? []
      : [findExecutable("nsenter"), ...entered.map(([kind, path]) => `--${kind}=${path}`), "--"];
  const unshare =
    place.newMountNamespace === true ? [findExecutable("unshare"), "--mount", "--propagation", "private", "--"] : [];
  return [...enter, ...unshare, ...helperCommand()];
}

/** How long a helper may take when the caller sets no signal: far beyond any of its tasks but a dead connect. */
const DEFAULT_TIMEOUT_MS = 10_000;

/** Room for a mount list; well below what a socket takes at once. */
const MAX_REQUEST = 65_536;

/**
 * Runs one task in a helper and returns its descriptor, which the caller owns.
 *
 * @throws what the task failed with, as it would have been thrown here; the reason of `signal`.
 */
export async function runOneShot(
  task: OneShotTask,
  options: OneShotPlace & { readonly signal?: AbortSignal } = {},
): Promise<OwnedFd> {
  const signal = options.signal ?? AbortSignal.timeout(DEFAULT_TIMEOUT_MS);
  const request: OneShotRequest = {
    task,
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.umask === undefined ? {} : { umask: options.umask }),
  };
  const bytes = new TextEncoder().encode(JSON.stringify(request));
  if (bytes.byteLength > MAX_REQUEST)
    throw classified("out-of-range", `run helper: request of ${bytes.byteLength} bytes`);
  const [ours, theirs] = socketPair(SOCK.SEQPACKET);
  using _ours = ours;
  using _theirs = theirs; // kept until the end, so that sending to a helper that died is no error of its own
  await using child = spawnChild(command(options), { env: {}, extraFds: [theirs.fd], stderr: "pipe", signal });
  sendDescriptors(ours.fd, bytes, []);
  const complaint = firstText(child.stderr);
  const ended = new AbortController();
  void child.exited.then(async ({ code }) => {
    // The answer, if any, is in the socket by now, and is taken before this.
    const said = await complaint;
    await sleep(ANSWER_GRACE_MS);
    ended.abort(
      classified("internal", `run helper: it ended with ${code} and no answer${said === "" ? "" : `: ${said}`}`),
    );
    return code;
  });
  const message = await awaitDescriptors(ours.fd, {
    signal: AbortSignal.any([signal, ended.signal]),
    maxBytes: MAX_REQUEST,
  });
  await child.exited;
  const [fd, ...surplus] = message.fds;
  for (const extra of surplus) extra[Symbol.dispose]();
  const answer = parseAnswer(message.bytes);
  if (answer.ok && fd !== undefined) return fd;
  fd?.[Symbol.dispose]();
  if (answer.ok) throw classified("internal", "run helper: it sent no descriptor");
  const { errno, syscall } = answer;
  if (errno !== undefined && syscall !== undefined) {
    const error = new SyscallError({ syscall, errno });
    error.message = answer.message;
    throw error;
  }
  const known = ERROR_CLASSES.find((errorClass) => errorClass === answer.errorClass);
  throw classified(known ?? "unknown", answer.message);
}

/** How long an answer that is in the socket already may need to be seen. */
const ANSWER_GRACE_MS = 50;

/** The first bytes of what a helper says on stderr, for the message; read to its end so that it is not blocked. */
async function firstText(stderr: OwnedFd | undefined): Promise<string> {
  let text = "";
  if (stderr === undefined) return text;
  for await (const chunk of readChunks(stderr.release())) {
    if (text.length < MAX_COMPLAINT) text += new TextDecoder().decode(chunk);
  }
  return text.slice(0, MAX_COMPLAINT).trim();
}

const MAX_COMPLAINT = 500;

function parseAnswer(bytes: Uint8Array): OneShotAnswer {
  if (bytes.byteLength === 0) throw classified("internal", "run helper: it ended without an answer");
  return JSON.parse(new TextDecoder().decode(bytes)) as OneShotAnswer;
}
