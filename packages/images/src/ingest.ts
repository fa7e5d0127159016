import { isErrorClass, type RequestContext } from "@stevedore/base";
import type { ContentStore, ContentWriter, WriterOptions } from "@stevedore/core";

/** First and longest wait for another writer of the same ref, in milliseconds: containerd's. */
const FIRST_WAIT_MS = 16;
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
  for (let wait = FIRST_WAIT_MS; ; wait = Math.min(wait * 2, LONGEST_WAIT_MS)) {
    try {
      return await content.writer(context, options);
    } catch (error) {
      if (!isErrorClass(error, "unavailable")) throw error;
    }
    await pause(wait * (0.5 + Math.random() / 2), context.signal);
  }
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  const onAbort = (): void => reject(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    await promise;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", onAbort);
  }
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
