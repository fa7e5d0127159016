import { encodeText } from "@stevedore/base/bytes";
import { createLogger, type LogFields, type Logger, type LogLevel } from "@stevedore/base/log";
import { ERRNO } from "@stevedore/os/errno";
import { closeQuietly, O, writeFrom } from "@stevedore/os/fd";

const ORDER: Readonly<Record<LogLevel, number>> = {
  trace: 0,
  debug: 1,
  info: 2,
  warning: 3,
  error: 4,
  fatal: 5,
  panic: 6,
};

export interface ShimLogOptions {
  /** The FIFO that the daemon reads, in a bundle that is there now. */
  readonly path: () => string;
  readonly debug: boolean;
  readonly fields: LogFields;
}

/**
 * The shim's log: lines in logrus's text format on the bundle's FIFO. A line that finds no reader in any bundle, or a full
 * pipe, is dropped: the log never holds up a container. The FIFO is opened again at the next line, since a restarted daemon
 * reads it again.
 */
export function shimLogger(options: ShimLogOptions): Logger {
  const least = ORDER[options.debug ? "debug" : "info"];
  let fd = -1;
  const open = async (): Promise<void> => {
    const { constants } = await import("node:fs");
    const { open: openFile } = await import("node:fs/promises");
    const { duplicate } = await import("@stevedore/os/fd");
    try {
      const file = await openFile(options.path(), constants.O_WRONLY | O.NONBLOCK);
      fd = duplicate(file.fd);
      await file.close();
    } catch {
      fd = -1; // nobody reads
    }
  };
  let opening: Promise<void> | undefined;
  const write = async (line: Uint8Array): Promise<void> => {
    // The bundle that was opened may be gone, with its reader; another one is there.
    for (let isLast = false; ; isLast = true) {
      if (fd < 0) {
        opening ??= open().finally(() => {
          opening = undefined;
        });
        await opening;
      }
      if (fd < 0) return;
      const written = writeFrom(fd, line);
      if (written >= 0) return;
      closeQuietly(fd);
      fd = -1;
      if (isLast || written === -ERRNO.EAGAIN) return;
    }
  };
  return createLogger(
    {
      enabled: (level) => ORDER[level] >= least,
      write: (level, message, fields) => void write(encodeText(logLine(level, message, fields))).catch(() => undefined),
    },
    options.fields,
  );
}

/** One line as logrus's text formatter writes it to a file. */
export function logLine(level: LogLevel, message: string, fields: LogFields): string {
  const pairs: [string, unknown][] = [
    ["time", new Date().toISOString()],
    ["level", level],
    ["msg", message],
  ];
  for (const key of Object.keys(fields).toSorted()) pairs.push([key, fields[key]]);
  return `${pairs.map(([key, value]) => `${key}=${quoted(typeof value === "string" ? value : String(value))}`).join(" ")}\n`;
}

function quoted(text: string): string {
  return /^[A-Za-z0-9._/@^+-]+$/.test(text) ? text : JSON.stringify(text);
}
