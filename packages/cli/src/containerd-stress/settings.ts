import type { CommandIO } from "../kit/command.ts";
import { logLine } from "../kit/log-line.ts";

/** What a test is told by the global flags. */
export interface StressSettings {
  readonly address: string;
  readonly concurrent: number;
  readonly cri: boolean;
  readonly durationMs: number;
  readonly exec: boolean;
  readonly image: string;
  readonly json: boolean;
  /** `host:port` to serve metrics on; "" for none. */
  readonly metrics: string;
  readonly runtime: string;
  readonly snapshotter: string;
  readonly log: StressLog;
}

/** The lines on standard error, in the words of the peer's logger. */
export interface StressLog {
  debug(message: string): void;
  info(message: string, fields?: Readonly<Record<string, string>>): void;
  error(message: string, error: unknown): void;
}

/** With `json` only warnings and worse are said, unless `debug` asks for everything. */
export function stressLog(io: CommandIO, options: { readonly json: boolean; readonly debug: boolean }): StressLog {
  const say = (text: string): void => io.stderr.write(text);
  return {
    debug: (message) => {
      if (options.debug) say(logLine("debug", message));
    },
    info: (message, fields = {}) => {
      if (options.debug || !options.json) say(logLine("info", message, undefined, fields));
    },
    error: (message, error) => say(logLine("error", message, error)),
  };
}
