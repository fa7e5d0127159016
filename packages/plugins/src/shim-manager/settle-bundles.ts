/** Bundles looked at together when the daemon starts: enough to hide a slow shim, few enough descriptors. */
const PARALLEL = 16;

/** A bundle found on disk at the start, and how to let go those who wait until it is settled. */
export interface FoundBundle<E> {
  readonly entry: E;
  readonly release: () => void;
}

/** Settles bundles in their order, several at a time. One that fails is told of and holds up nobody. */
export async function settleBundles<E>(
  found: readonly FoundBundle<E>[],
  settle: (entry: E) => Promise<void>,
  failed: (entry: E, error: unknown) => void,
): Promise<void> {
  const left = [...found];
  const worker = async (): Promise<void> => {
    for (let next = left.shift(); next !== undefined; next = left.shift()) {
      try {
        await settle(next.entry);
      } catch (error) {
        failed(next.entry, error);
      } finally {
        next.release();
      }
    }
  };
  await Promise.all(Array.from({ length: PARALLEL }, worker));
}
