/**
 * The log facade. Rooms below the daemon write through this interface and never choose a sink; the daemon, the shim and
 * the command lines install one.
 */

/** Levels as containerd spells them in config and in log lines. */
export type LogLevel = "trace" | "debug" | "info" | "warning" | "error" | "fatal" | "panic";

/** Named values of a log line. */
export type LogFields = Readonly<Record<string, unknown>>;

/** Writes log lines, one method a level. Never throws and never blocks. */
export interface Logger {
  trace(message: string, fields?: LogFields): void;
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  /** A logger that adds `fields` to each line. */
  with(fields: LogFields): Logger;
}

/** Receives every line at or above its level. Must not throw and must not block. */
export interface LogSink {
  enabled(level: LogLevel): boolean;
  write(level: LogLevel, message: string, fields: LogFields): void;
}

const SILENT: LogSink = { enabled: () => false, write: () => undefined };

/** A logger over `sink`; without one, a logger that writes nothing. */
export function createLogger(sink: LogSink = SILENT, base: LogFields = {}): Logger {
  const at =
    (level: LogLevel) =>
    (message: string, fields?: LogFields): void => {
      if (sink.enabled(level)) sink.write(level, message, fields === undefined ? base : { ...base, ...fields });
    };
  return {
    trace: at("trace"),
    debug: at("debug"),
    info: at("info"),
    warn: at("warning"),
    error: at("error"),
    with: (fields) => createLogger(sink, { ...base, ...fields }),
  };
}
