import { isErrorClass, messageOf, type RequestContext } from "@stevedore/base";
import type { ContentStore, ContentWriter, WriterOptions } from "@stevedore/core";

/** First and longest wait for another writer of the same ref, in milliseconds: containerd's. */
export const FIRST_WAIT_MS = 16;
const LONGEST_WAIT_MS = 2_048;

/**
 * Opens the ingest of a ref, waiting while another writer has it.
 *
 * @throws as {@link ContentStore.writer}, but not unavailable for a ref that is locked; the signal's reason.
 */
export async function openWriter(
  content: ContentStore,
  context: RequestContext,
  options: WriterOptions,
): Promise<ContentWriter> {
  for (let wait = FIRST_WAIT_MS; ; wait = await pauseForWriter(wait, context.signal)) {
    const writer = await unlessLocked(async () => content.writer(context, options));
    if (writer !== undefined) return writer;
  }
}

/** The writer that was opened; undefined when another one has the ref. */
export async function unlessLocked(open: () => Promise<ContentWriter>): Promise<ContentWriter | undefined> {
  try {
    return await open();
  } catch (error) {
    // A daemon that is gone is unavailable as well; only the words tell the two apart, and they are containerd's.
    if (isErrorClass(error, "unavailable") && messageOf(error).includes(" locked")) return undefined;
    throw error;
  }
}

/** Waits about `wait` milliseconds for another writer. @returns what to wait the next time. @throws the signal's reason */
export async function pauseForWriter(wait: number, signal: AbortSignal): Promise<number> {
  signal.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, wait * (0.5 + Math.random() / 2));
  const onAbort = (): void => reject(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    await promise;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", onAbort);
  }
  return Math.min(wait * 2, LONGEST_WAIT_MS);
}

/** Whether a blob is there. @throws what the store throws but not-found */
export async function hasBlob(content: ContentStore, context: RequestContext, digest: string): Promise<boolean> {
  try {
    await content.info(context, digest);
    return true;
  } catch (error) {
    if (isErrorClass(error, "not-found")) return false;
    throw error;
  }
}
