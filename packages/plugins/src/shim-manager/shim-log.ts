import { join } from "node:path";
import type { Logger } from "@stevedore/base";
import { messageOf } from "@stevedore/base";
import { makeFifo, openFifoBoth } from "@stevedore/os/fifo";
import { readChunks } from "@stevedore/os/io";
import { BUNDLE_FILE, type Bundle } from "./bundle.ts";

/** Takes what shims log, in pieces as they come. Must not throw. */
export type ShimLogSink = (bytes: Uint8Array) => void;

/**
 * Makes the bundle's log FIFO and copies it to `sink` until `signal` aborts. It is held open for reading and writing, so
 * that a shim that opens it later, or again, always finds a reader. Returns at once.
 */
export function readShimLog(bundle: Bundle, options: { sink: ShimLogSink; signal: AbortSignal; log: Logger }): void {
  const path = join(bundle.path, BUNDLE_FILE.log);
  makeFifo(path, 0o700);
  const fifo = openFifoBoth(path);
  const copy = async (): Promise<void> => {
    for await (const chunk of readChunks(fifo.release(), { signal: options.signal })) options.sink(chunk);
  };
  copy().catch((error: unknown) => {
    if (!options.signal.aborted) options.log.error("copy shim log", { id: bundle.id, error: messageOf(error) });
  });
}
