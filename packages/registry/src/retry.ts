import { reasonOf } from "./http/reader.ts";
import type { RegistryLimits } from "./limits.ts";

/**
 * Milliseconds to wait before try number `failures + 1`: what the server asked for, else doubling with jitter between
 * half and all of it.
 */
export function pauseMs(failures: number, limits: RegistryLimits, options: PauseOptions): number {
  if (options.retryAfterMs !== undefined) return options.retryAfterMs;
  const full = Math.min(limits.backoffMaxMs, limits.backoffMs * 2 ** Math.max(0, failures - 1));
  return full * (0.5 + options.random() / 2);
}

/** What else decides a pause. */
export interface PauseOptions {
  readonly retryAfterMs?: number | undefined;
  readonly random: () => number;
}

/** Waits. @throws the signal's reason */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const onAbort = (): void => reject(reasonOf(signal));
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    await promise;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", onAbort);
  }
}
