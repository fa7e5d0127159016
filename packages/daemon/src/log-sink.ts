/** Where the daemon's log lines go: stderr, as text or JSON, with the field names of the peer's logger. */
import { writeSync } from "node:fs";
import { classified, type LogFields, type LogLevel, type LogSink, messageOf } from "@stevedore/base";

/** From most to least said. */
const LEVELS: readonly LogLevel[] = ["trace", "debug", "info", "warning", "error", "fatal", "panic"];

/** Spellings that config files and flags use for a level. */
const SPELLINGS: Readonly<Record<string, LogLevel>> = {
  trace: "trace",
  debug: "debug",
  info: "info",
  warn: "warning",
  warning: "warning",
  error: "error",
  fatal: "fatal",
  panic: "panic",
};

/** @throws invalid-argument for a word that is no level */
export function parseLogLevel(text: string): LogLevel {
  const level = SPELLINGS[text.toLowerCase()];
  if (level === undefined) {
    throw classified("invalid-argument", `not a valid log level: ${JSON.stringify(text)}: invalid argument`);
  }
  return level;
}

export type LogFormat = "text" | "json";

/** @throws invalid-argument */
export function parseLogFormat(text: string): LogFormat {
  if (text === "" || text === "text") return "text";
  if (text === "json") return "json";
  throw classified("invalid-argument", `unsupported log format: ${JSON.stringify(text)}: invalid argument`);
}

/** A sink over stderr whose level may change while it runs. */
export class DaemonLog implements LogSink {
  #threshold: number;
  readonly #format: LogFormat;
  readonly #write: (line: string) => void;

  constructor(level: LogLevel, format: LogFormat, write: (line: string) => void = writeStderr) {
    this.#threshold = LEVELS.indexOf(level);
    this.#format = format;
    this.#write = write;
  }

  set level(level: LogLevel) {
    this.#threshold = LEVELS.indexOf(level);
  }

  enabled(level: LogLevel): boolean {
    return LEVELS.indexOf(level) >= this.#threshold;
  }

  write(level: LogLevel, message: string, fields: LogFields): void {
    this.#write(this.#format === "json" ? jsonLine(level, message, fields) : textLine(level, message, fields));
  }
}

function writeStderr(line: string): void {
  try {
    writeSync(2, line);
  } catch {
    // There is nowhere left to say that the log cannot be written.
  }
}

/** RFC 3339 with nine digits, as the peer's daemon stamps its lines. */
function timestamp(): string {
  return new Date().toISOString().replace("Z", "000000Z");
}

function shown(value: unknown): unknown {
  if (value instanceof Error) return messageOf(value);
  return typeof value === "bigint" ? value.toString() : value;
}

function jsonLine(level: LogLevel, message: string, fields: LogFields): string {
  const line: Record<string, unknown> = {};
  for (const key of Object.keys(fields).sort()) line[key] = shown(fields[key]);
  return `${JSON.stringify({ ...line, level, msg: message, time: timestamp() })}\n`;
}

function textLine(level: LogLevel, message: string, fields: LogFields): string {
  const parts = [`time="${timestamp()}"`, `level=${level}`, `msg=${quoted(message)}`];
  for (const key of Object.keys(fields).sort()) {
    const value = shown(fields[key]);
    parts.push(`${key}=${quoted(typeof value === "string" ? value : (JSON.stringify(value) ?? ""))}`);
  }
  return `${parts.join(" ")}\n`;
}

// logrus leaves values of letters, digits and -._/@^+ bare.
function quoted(text: string): string {
  return /^[A-Za-z0-9\-._/@^+]+$/.test(text) ? text : JSON.stringify(text);
}
