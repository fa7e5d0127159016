/** Mounts done by the client itself. */
import type { Mount } from "@stevedore/core";
import { mountAllMapped, unmountAll } from "@stevedore/os/mount";

/** Performs the mounts on `target`. */
export async function mountSnapshot(mounts: readonly Mount[], target: string): Promise<void> {
  await mountAllMapped(mounts, target);
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
  await mountAllMapped(mounts, target);
  try {
    const { promise, resolve } = Promise.withResolvers<void>();
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
    await promise;
  } finally {
    unmountAll(target);
  }
}
