import { rmSync } from "node:fs";
import { classified } from "@stevedore/base/errors";
import { check } from "./errno.ts";
import { O, OwnedFd } from "./fd.ts";
import { cString, i32, libc, nothing, pointer, u64 } from "./ffi.ts";
import { attemptUntil, FdWriter, readChunks } from "./io.ts";
import { acceptUnix, awaitDescriptors, listenUnix } from "./socket.ts";

/**
 * Terminals. A master is read with `readChunks` (the hang-up of its last user, EIO, is the end) and written with an
 * {@link FdWriter}, on a copy of the descriptor each.
 */

export { FdWriter, readChunks };

const lib = libc({
  open: { args: [pointer, i32, i32], returns: i32 },
  ioctl: { args: [i32, u64, pointer], returns: i32 },
  tcgetattr: { args: [i32, pointer], returns: i32 },
  tcsetattr: { args: [i32, i32, pointer], returns: i32 },
  cfmakeraw: { args: [pointer], returns: nothing },
  isatty: { args: [i32], returns: i32 },
});
// TIOCGPTPEER takes flags by value where the other requests take memory.
const valueLib = libc({ ioctl: { args: [i32, u64, u64], returns: i32 } });

/** Requests; from include/uapi/asm-generic/ioctls.h. */
const TIOC = {
  GPTN: 0x8004_5430,
  SPTLCK: 0x4004_5431,
  GPTPEER: 0x5441,
  GWINSZ: 0x5413,
  SWINSZ: 0x5414,
} as const;

export interface Pty {
  readonly master: OwnedFd;
  /** The terminal itself. Close it once the child has it, or its end is never seen. */
  readonly slave: OwnedFd;
  /** `/dev/pts/<n>`. */
  readonly name: string;
}

const number = new Int32Array(1);

/**
 * A new terminal, both ends close-on-exec, master non-blocking.
 *
 * @throws resource-exhausted (ENOSPC) when the system has no terminals left.
 */
export function openPty(): Pty {
  const flags = O.RDWR | O.NOCTTY | O.CLOEXEC;
  const master = new OwnedFd(check(lib().open(cString("/dev/ptmx"), flags | O.NONBLOCK, 0), "open", "/dev/ptmx"));
  try {
    number[0] = 0;
    check(lib().ioctl(master.fd, TIOC.SPTLCK, number), "ioctl", "TIOCSPTLCK");
    check(lib().ioctl(master.fd, TIOC.GPTN, number), "ioctl", "TIOCGPTN");
    const name = `/dev/pts/${number[0]}`;
    // By the master, not by name: the name may mean another devpts instance here.
    const slave = check(valueLib().ioctl(master.fd, TIOC.GPTPEER, flags), "open", name);
    return { master, slave: new OwnedFd(slave), name };
  } catch (error) {
    master[Symbol.dispose]();
    throw error;
  }
}

export interface WindowSize {
  readonly columns: number;
  readonly rows: number;
}

const size = new Uint16Array(4);

/** The window size of a terminal. @throws invalid-argument (ENOTTY) when `fd` is none */
export function getWindowSize(fd: number): WindowSize {
  check(lib().ioctl(fd, TIOC.GWINSZ, size), "ioctl", "TIOCGWINSZ");
  return { rows: size[0] ?? 0, columns: size[1] ?? 0 };
}

/** Sets it; the foreground process group gets SIGWINCH when it changed. */
export function setWindowSize(fd: number, wanted: WindowSize): void {
  size[0] = wanted.rows;
  size[1] = wanted.columns;
  size[2] = 0;
  size[3] = 0;
  check(lib().ioctl(fd, TIOC.SWINSZ, size), "ioctl", "TIOCSWINSZ");
}

/** Whether `fd` is a terminal. */
export function isTerminal(fd: number): boolean {
  return lib().isatty(fd) === 1;
}

/** sizeof(struct termios) in glibc is 60. */
const TERMIOS_SIZE = 64;
const TCSADRAIN = 1;

/**
 * Puts a terminal into raw mode (cfmakeraw: no echo, no signals by key, bytes as they come) and returns the undo, which
 * restores what was. The undo never throws: it runs on the way out.
 */
export function makeRaw(fd: number): () => void {
  const before = new Uint8Array(TERMIOS_SIZE);
  check(lib().tcgetattr(fd, before), "tcgetattr", `descriptor ${fd}`);
  const raw = before.slice();
  lib().cfmakeraw(raw);
  check(lib().tcsetattr(fd, TCSADRAIN, raw), "tcsetattr", `descriptor ${fd}`);
  return () => {
    lib().tcsetattr(fd, TCSADRAIN, before);
  };
}

/** c_oflag ONLCR and its place; from include/uapi/asm-generic/termbits.h. */
const ONLCR = 4;
const OFLAG_OFFSET = 4;

/** Stops a terminal from turning newlines into CR LF on output, as containerd's console package does on masters. */
export function disableNewlineTranslation(fd: number): void {
  const attributes = new Uint8Array(TERMIOS_SIZE);
  check(lib().tcgetattr(fd, attributes), "tcgetattr", `descriptor ${fd}`);
  const view = new DataView(attributes.buffer);
  view.setUint32(OFLAG_OFFSET, view.getUint32(OFLAG_OFFSET, true) & ~ONLCR, true);
  check(lib().tcsetattr(fd, 0, attributes), "tcsetattr", `descriptor ${fd}`);
}

/**
 * The socket an OCI runtime sends a container's terminal to (`--console-socket`). Listens from construction on; its
 * file goes with {@link ConsoleSocket.close}.
 */
export class ConsoleSocket implements Disposable {
  readonly path: string;
  readonly #listener: OwnedFd;

  /** @param path the socket's file, in a folder only we can write. */
  constructor(path: string) {
    this.path = path;
    this.#listener = listenUnix(path, { backlog: 1 });
  }

  /**
   * The master end the runtime sends. The caller owns it.
   *
   * @throws failed-precondition when the connection ended without one; the reason of `signal`.
   */
  async receive(signal?: AbortSignal): Promise<OwnedFd> {
    using connection = await attemptUntil(this.#listener.fd, () => acceptUnix(this.#listener.fd), signal);
    const message = await awaitDescriptors(connection.fd, signal === undefined ? {} : { signal });
    const [master, ...surplus] = message.fds;
    for (const fd of surplus) fd[Symbol.dispose]();
    if (master === undefined) {
      throw classified("failed-precondition", `receive console on ${this.path}: connection ended without a terminal`);
    }
    if (!isTerminal(master.fd)) {
      master[Symbol.dispose]();
      throw classified("failed-precondition", `receive console on ${this.path}: what came is no terminal`);
    }
    return master;
  }

  close(): void {
    this.#listener[Symbol.dispose]();
    rmSync(this.path, { force: true });
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
