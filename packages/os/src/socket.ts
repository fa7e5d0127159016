import { ptr } from "bun:ffi";
import { lstatSync, rmSync } from "node:fs";
import { basename, dirname } from "node:path";
import { classified } from "@stevedore/base/errors";
import { check, ERRNO, isErrno, resultOrErrno, retryInterrupted, SyscallError } from "./errno.ts";
import { closeQuietly, O, OwnedFd } from "./fd.ts";
import { cString, i32, libc, pointer, u32 } from "./ffi.ts";
import { attemptUntil } from "./io.ts";
import { chmodFd, openAt2 } from "./path.ts";

/**
 * Unix sockets beyond what Bun's own know: who the peer is, and descriptors in messages. The sockets here are plain
 * descriptors, used beside Bun's loop: waiting goes by SIGIO (see io.ts).
 */

const lib = libc({
  socket: { args: [i32, i32, i32], returns: i32 },
  socketpair: { args: [i32, i32, i32, pointer], returns: i32 },
  bind: { args: [i32, pointer, u32], returns: i32 },
  listen: { args: [i32, i32], returns: i32 },
  connect: { args: [i32, pointer, u32], returns: i32 },
  accept4: { args: [i32, pointer, pointer, i32], returns: i32 },
  getsockopt: { args: [i32, i32, i32, pointer, pointer], returns: i32 },
  sendmsg: { args: [i32, pointer, i32], returns: i32 },
  chmod: { args: [pointer, u32], returns: i32 },
  recvmsg: { args: [i32, pointer, i32], returns: i32 },
});

/** From include/linux/socket.h and include/uapi/asm-generic/socket.h. */
const AF_UNIX = 1;
const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
const SO_PEERPIDFD = 77;
const SCM_RIGHTS = 1;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const MSG = { DONTWAIT: 0x40, NOSIGNAL: 0x4000, CMSG_CLOEXEC: 0x4000_0000, CTRUNC: 8 } as const;

/** Kinds of unix sockets. */
export const SOCK = { STREAM: 1, DGRAM: 2, SEQPACKET: 5 } as const;

/** Who is at the other end of a unix socket, as of its connect (or socketpair). */
export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

const optionValue = new Uint32Array(3);
const optionLength = new Uint32Array(1);

/** SO_PEERCRED. `fd` may be a Bun socket's. @throws invalid-argument when it is no socket */
export function peerCredentials(fd: number): PeerCredentials {
  optionLength[0] = 12;
  const result = lib().getsockopt(fd, SOL_SOCKET, SO_PEERCRED, optionValue, optionLength);
  check(result, "getsockopt", "SO_PEERCRED");
  return { pid: optionValue[0] ?? 0, uid: optionValue[1] ?? 0, gid: optionValue[2] ?? 0 };
}

/** A pidfd of the peer (Linux 6.5), or undefined where the kernel or the socket has none. The caller owns it. */
export function peerPidfd(fd: number): number | undefined {
  optionLength[0] = 4;
  if (lib().getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, optionValue, optionLength) < 0) return undefined;
  return optionValue[0];
}

const pair = new Int32Array(2);

/** Two connected unix sockets, close-on-exec and blocking. The caller owns both. */
export function socketPair(kind: number = SOCK.STREAM): [OwnedFd, OwnedFd] {
  check(lib().socketpair(AF_UNIX, kind | SOCK_CLOEXEC, 0, pair), "socketpair");
  return [new OwnedFd(pair[0] ?? -1), new OwnedFd(pair[1] ?? -1)];
}

/** SCM_MAX_FD: more descriptors than this do not fit one message; from include/net/scm.h. */
export const MAX_DESCRIPTORS = 253;

/** What struct msghdr, one iovec and the control buffer need; kept for all calls, which are synchronous. */
const header = new BigUint64Array(7);
const vector = new BigUint64Array(2);
const control = new Uint8Array(16 + MAX_DESCRIPTORS * 4 + 8);
const controlView = new DataView(control.buffer);

/** The message whose address stands in {@link vector}: addresses keep nothing alive, so this does. */
const inFlight: { bytes: Uint8Array | undefined } = { bytes: undefined };

function prepareHeader(bytes: Uint8Array, controlLength: number): Uint8Array {
  inFlight.bytes = bytes;
  vector[0] = BigInt(ptr(bytes));
  vector[1] = BigInt(bytes.byteLength);
  header[0] = 0n; // name
  header[1] = 0n; // its length
  header[2] = BigInt(ptr(vector));
  header[3] = 1n;
  header[4] = controlLength === 0 ? 0n : BigInt(ptr(control));
  header[5] = BigInt(controlLength);
  header[6] = 0n; // flags
  return new Uint8Array(header.buffer);
}

/**
 * Sends `bytes` (at least one) with copies of `fds` in one message. Does not wait. The descriptors stay the caller's.
 *
 * @returns the number of bytes taken (the descriptors went with the first), or undefined when the socket is full.
 * @throws unavailable (EPIPE) when the other end is closed.
 */
export function sendDescriptors(socket: number, bytes: Uint8Array, fds: readonly number[]): number | undefined {
  if (bytes.byteLength === 0) throw classified("invalid-argument", "send descriptors: a message needs a byte");
  if (fds.length > MAX_DESCRIPTORS) {
    throw classified("out-of-range", `send descriptors: ${fds.length} in one message, at most ${MAX_DESCRIPTORS}`);
  }
  const length = 16 + fds.length * 4;
  controlView.setBigUint64(0, BigInt(length), true);
  controlView.setInt32(8, SOL_SOCKET, true);
  controlView.setInt32(12, SCM_RIGHTS, true);
  for (const [i, fd] of fds.entries()) controlView.setInt32(16 + i * 4, fd, true);
  const aligned = (length + 7) & ~7;
  const message = prepareHeader(bytes, fds.length === 0 ? 0 : aligned);
  const n = retryInterrupted(() => lib().sendmsg(socket, message, MSG.DONTWAIT | MSG.NOSIGNAL));
  inFlight.bytes = undefined;
  if (n === -ERRNO.EAGAIN) return undefined;
  if (n < 0) throw new SyscallError({ syscall: "sendmsg", errno: -n });
  return n;
}

export interface ReceivedMessage {
  /** Empty at the end of the stream. The caller's to keep. */
  readonly bytes: Uint8Array;
  /** Close-on-exec; the caller owns them. */
  readonly fds: OwnedFd[];
}

/**
 * One message (or what a stream has) with the descriptors in it. Does not wait.
 *
 * @returns undefined when nothing is there yet.
 * @throws resource-exhausted when more descriptors came than fit; those that did are closed.
 */
export function receiveDescriptors(socket: number, maxBytes = 4096): ReceivedMessage | undefined {
  const bytes = new Uint8Array(maxBytes);
  const message = prepareHeader(bytes, control.byteLength);
  const n = retryInterrupted(() => lib().recvmsg(socket, message, MSG.DONTWAIT | MSG.CMSG_CLOEXEC));
  inFlight.bytes = undefined;
  if (n === -ERRNO.EAGAIN) return undefined;
  if (n < 0) throw new SyscallError({ syscall: "recvmsg", errno: -n });
  const fds: OwnedFd[] = [];
  const controlLength = Number(header[5]);
  for (let at = 0; at + 16 <= controlLength; ) {
    const length = Number(controlView.getBigUint64(at, true));
    if (length < 16) break;
    const isRights =
      controlView.getInt32(at + 8, true) === SOL_SOCKET && controlView.getInt32(at + 12, true) === SCM_RIGHTS;
    if (isRights)
      for (let i = at + 16; i + 4 <= at + length; i += 4) fds.push(new OwnedFd(controlView.getInt32(i, true)));
    at += (length + 7) & ~7;
  }
  if ((Number((header[6] ?? 0n) & 0xffff_ffffn) & MSG.CTRUNC) !== 0) {
    for (const fd of fds) fd[Symbol.dispose]();
    throw classified("resource-exhausted", "receive descriptors: more came than could be taken");
  }
  return { bytes: bytes.subarray(0, n), fds };
}

/** As {@link receiveDescriptors}, waiting for a message on the loop. */
export function awaitDescriptors(
  socket: number,
  options: { signal?: AbortSignal; maxBytes?: number } = {},
): Promise<ReceivedMessage> {
  return attemptUntil(socket, () => receiveDescriptors(socket, options.maxBytes), options.signal);
}

/** sun_path; from include/uapi/linux/un.h. */
const MAX_SOCKET_PATH = 107;

/** A sockaddr_un, its family first. A leading `@` or NUL names the abstract space. */
function socketAddress(path: string): Uint8Array {
  const name = new TextEncoder().encode(path.startsWith("@") ? `\0${path.slice(1)}` : path);
  if (name.byteLength > MAX_SOCKET_PATH) {
    throw classified("invalid-argument", `unix socket ${path}: longer than ${MAX_SOCKET_PATH} bytes`);
  }
  if (name.indexOf(0, 1) >= 0) throw classified("invalid-argument", `unix socket ${JSON.stringify(path)}: NUL inside`);
  const abstract = name[0] === 0;
  const address = new Uint8Array(2 + name.byteLength + (abstract ? 0 : 1));
  address[0] = AF_UNIX;
  address.set(name, 2);
  return address;
}

/**
 * Runs `use` with a path for socket calls that fits sockaddr_un however long `path` is: its folder is then named by
 * descriptor. Symlinks in the folder's path are followed: it is ours, not a container's.
 */
function withShortPath<T>(path: string, use: (short: string) => T): T {
  if (path.startsWith("@") || Buffer.byteLength(path) <= MAX_SOCKET_PATH) return use(path);
  const fd = openAt2(-100, dirname(path), { flags: O.PATH | O.DIRECTORY, resolve: 0 });
  try {
    return use(`/proc/self/fd/${fd}/${basename(path)}`);
  } finally {
    closeQuietly(fd);
  }
}

export interface ListenOptions {
  readonly kind?: number;
  readonly backlog?: number;
  /** Permission bits of the socket's file. Default 0o600, so that nobody else may ever connect. */
  readonly mode?: number;
}

/**
 * A listening unix socket at `path`, non-blocking and close-on-exec. Whatever the umask, its file never has more than
 * `mode`: that is set on the socket before bind, which the kernel takes over.
 *
 * @throws already-exists (EADDRINUSE) when the path is taken.
 */
export function listenUnix(path: string, options: ListenOptions = {}): OwnedFd {
  const { kind = SOCK.STREAM, backlog = 16, mode = 0o600 } = options;
  const fd = new OwnedFd(check(lib().socket(AF_UNIX, kind | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), "socket"));
  try {
    chmodFd(fd.fd, mode);
    withShortPath(path, (short) => {
      const address = socketAddress(short);
      check(lib().bind(fd.fd, address, address.byteLength), "bind", path);
      // The umask may have taken bits away; nobody can have connected yet, since listen comes later.
      if (!path.startsWith("@")) check(lib().chmod(cString(short), mode), "chmod", path);
    });
    if (kind !== SOCK.DGRAM) check(lib().listen(fd.fd, backlog), "listen", path);
    return fd;
  } catch (error) {
    fd[Symbol.dispose]();
    throw error;
  }
}

/** Connects to a unix socket: immediate for a local listener with room in its queue. Non-blocking, close-on-exec. */
export function connectUnix(path: string, options: { kind?: number } = {}): OwnedFd {
  const kind = options.kind ?? SOCK.STREAM;
  const fd = new OwnedFd(check(lib().socket(AF_UNIX, kind | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), "socket"));
  try {
    withShortPath(path, (short) => {
      const address = socketAddress(short);
      check(lib().connect(fd.fd, address, address.byteLength), "connect", path);
    });
    return fd;
  } catch (error) {
    fd[Symbol.dispose]();
    throw error;
  }
}

/** The next connection of a listening socket, or undefined when none waits. The caller owns it. */
export function acceptUnix(listener: number): OwnedFd | undefined {
  const fd = resultOrErrno(lib().accept4(listener, null, null, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (fd === -ERRNO.EAGAIN || fd === -ERRNO.EINTR || fd === -ERRNO.ECONNABORTED) return undefined;
  if (fd < 0) throw new SyscallError({ syscall: "accept", errno: -fd });
  return new OwnedFd(fd);
}

/** As {@link acceptUnix}, waiting on the loop. */
export function awaitConnection(listener: number, signal?: AbortSignal): Promise<OwnedFd> {
  return attemptUntil(listener, () => acceptUnix(listener), signal);
}

/** Whether something listens at `path`: a stale file refuses the connection. */
export function isListening(path: string, kind: number = SOCK.STREAM): boolean {
  try {
    connectUnix(path, { kind })[Symbol.dispose]();
    return true;
  } catch (error) {
    if (isErrno(error, "ECONNREFUSED", "ENOENT", "ENOTSOCK", "EPROTONOSUPPORT")) return false;
    if (isErrno(error, "EAGAIN")) return true; // its queue is full: somebody is there
    throw error;
  }
}

/** Removes a socket's file left by a process that is gone. A file that is no socket, or one that answers, stays. */
export function removeStaleSocket(path: string, kind: number = SOCK.STREAM): void {
  try {
    if (!lstatSync(path).isSocket()) throw classified("already-exists", `remove socket ${path}: it is no socket`);
  } catch (error) {
    if (isErrno(error, "ENOENT")) return;
    throw error;
  }
  if (isListening(path, kind)) throw classified("already-exists", `remove socket ${path}: something listens on it`);
  rmSync(path, { force: true });
}
