import type { CommandIO } from "./kit/command.ts";
import { descriptorOutput } from "./kit/output.ts";

/** Exit code of a program that SIGINT ended, as shells count it. */
const INTERRUPTED = 130;

/**
 * The world of this process as commands see it.
 *
 * `interruptible`: the first SIGINT or SIGTERM ends the signal, so that a command can tidy up; the second ends the
 * process.
 */
export function processIO(options: { readonly interruptible?: boolean } = {}): CommandIO {
  const ending = new AbortController();
  if (options.interruptible === true) {
    const onSignal = (): void => {
      if (ending.signal.aborted) process.exit(INTERRUPTED);
      ending.abort();
    };
    process.on("SIGINT", onSignal);
    process.on("SIGTERM", onSignal);
  }
  return {
    stdout: descriptorOutput(1),
    stderr: descriptorOutput(2),
    env: process.env,
    signal: ending.signal,
  };
}
