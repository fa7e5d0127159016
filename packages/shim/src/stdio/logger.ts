import { classified } from "@stevedore/base/errors";
import { OwnedFd, pipe, readInto, setNonBlocking } from "@stevedore/os/fd";
import { SIGKILL, SIGTERM } from "@stevedore/os/signals";
import { type Child, spawnChild } from "@stevedore/os/spawn";

/** How long a logger may take between SIGTERM and its end; the peer's figure. */
const LOGGER_GRACE_MS = 12_000;

/** How long a logger may take to say that it is ready. The peer waits without a limit, and hangs with its logger. */
const LOGGER_READY_MS = 30_000;

export interface LoggerOptions {
  readonly command: readonly string[];
  /** A logger that ends its ready pipe without writing a byte has failed. */
  readonly strictReady: boolean;
  /** Id of the process: the container's for init. */
  readonly id: string;
  readonly namespace: string;
  readonly env: Readonly<Record<string, string>>;
}

/** A logging program: stdout on its descriptor 3, stderr on 4, and 5 to close when it is ready. */
export class Logger {
  readonly #child: Child;
  /** Write ends for the process. Closed by {@link Logger.started}. */
  readonly stdout: OwnedFd;
  readonly stderr: OwnedFd;

  private constructor(child: Child, stdout: OwnedFd, stderr: OwnedFd) {
    this.#child = child;
    this.stdout = stdout;
    this.stderr = stderr;
  }

  /** Starts a logger and waits until it is ready. @throws unknown with the peer's words */
  static async start(options: LoggerOptions): Promise<Logger> {
    const out = pipe();
    const err = pipe();
    const ready = pipe();
    using outRead = new OwnedFd(out.read);
    using errRead = new OwnedFd(err.read);
    using readyRead = new OwnedFd(ready.read);
    using readyWrite = new OwnedFd(ready.write);
    const stdout = new OwnedFd(out.write);
    const stderr = new OwnedFd(err.write);
    let child: Child;
    try {
      child = spawnChild(options.command, {
        env: { ...options.env, CONTAINER_ID: options.id, CONTAINER_NAMESPACE: options.namespace },
        extraFds: [outRead.fd, errRead.fd, readyWrite.fd],
        newSession: true,
      });
    } catch (error) {
      stdout.close();
      stderr.close();
      throw classified("unknown", `failed to start binary process: ${String(error)}`, { cause: error });
    }
    readyWrite.close();
    const logger = new Logger(child, stdout, stderr);
    try {
      const told = await firstByte(readyRead.release());
      if (!told && options.strictReady) {
        throw classified("unknown", "logging binary did not call ready (it may have crashed or exited prematurely)");
      }
      return logger;
    } catch (error) {
      await logger.close();
      throw error;
    }
  }

  /** Closes our copies of what the process was given, so that the logger sees the end when the process's are gone. */
  started(): void {
    this.stdout.close();
    this.stderr.close();
  }

  /** Ends the logger: SIGTERM, so that it can flush, and after 12 s SIGKILL. */
  async close(): Promise<void> {
    this.started();
    const child = this.#child;
    child.kill(SIGTERM);
    const timer = setTimeout(() => child.kill(SIGKILL), LOGGER_GRACE_MS);
    await child.exited;
    clearTimeout(timer);
    child.dispose();
  }
}

/** Waits for a byte or the end of a pipe; whether a byte came. Closes the descriptor. */
async function firstByte(fd: number): Promise<boolean> {
  const { attemptUntil } = await import("@stevedore/os/io");
  using owned = new OwnedFd(fd);
  setNonBlocking(owned.fd);
  const byte = new Uint8Array(1);
  const count = await attemptUntil(
    owned.fd,
    () => {
      const n = readInto(owned.fd, byte);
      return n >= 0 ? n : undefined;
    },
    AbortSignal.timeout(LOGGER_READY_MS),
  );
  return count === 1;
}
