import { fstatSync, writeSync } from "node:fs";

/** Where a command writes. Writes are in order and complete when the call returns. */
export interface Output {
  write(chunk: string | Uint8Array): void;
  /** Whether it is a terminal, for colours and redrawn progress. */
  readonly isTerminal: boolean;
}

/** Milliseconds to wait when a non-blocking descriptor is full. */
const RETRY_MS = 2;

/**
 * An output over a descriptor of this process. A reader that has gone away ends the program quietly, as it ends a Go
 * program by SIGPIPE.
 */
export function descriptorOutput(fd: number): Output {
  const write = (chunk: string | Uint8Array): void => {
    let rest = typeof chunk === "string" ? Buffer.from(chunk) : chunk;
    while (rest.byteLength > 0) {
      try {
        rest = rest.subarray(writeSync(fd, rest));
      } catch (error) {
        const code = error instanceof Error && "code" in error ? error.code : "";
        if (code === "EPIPE") process.exit(141);
        if (code !== "EAGAIN") throw error;
        Bun.sleepSync(RETRY_MS);
      }
    }
  };
  return {
    write,
    get isTerminal() {
      return isTerminal(fd);
    },
  };
}

// node:tty takes 2 ms to load, which a command that only prints need not pay.
function isTerminal(fd: number): boolean {
  return fstatSync(fd).isCharacterDevice() && process.getBuiltinModule("node:tty").isatty(fd);
}

/** An output that keeps what was written, for tests. */
export function memoryOutput(): Output & { text(): string } {
  const parts: Buffer[] = [];
  return {
    isTerminal: false,
    write: (chunk) => {
      parts.push(Buffer.from(chunk));
    },
    text: () => Buffer.concat(parts).toString(),
  };
}
