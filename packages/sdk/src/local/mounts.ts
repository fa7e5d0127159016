/** Mounts done by the client itself. */
import type { Mount } from "@stevedore/core";
import { mountAll, unmountAll } from "@stevedore/os/mount";

/** Performs the mounts on `target`. */
export function mountSnapshot(mounts: readonly Mount[], target: string): void {
  mountAll(mounts, target);
}

/** Takes all mounts off `target`. */
export function unmountSnapshot(target: string): void {
  unmountAll(target);
}

/** Keeps the mounts on `target` until the signal ends. */
export async function holdMounts(
  mounts: readonly Mount[],
  target: string,
  { signal }: { readonly signal: AbortSignal },
): Promise<void> {
  mountAll(mounts, target);
  try {
    const { promise, resolve } = Promise.withResolvers<void>();
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
    await promise;
  } finally {
    unmountAll(target);
  }
}
