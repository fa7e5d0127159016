import { type Duplex, pipeline, Readable } from "node:stream";

/**
 * What a stream's transformer, a decompressor for instance, makes of a source. An error of either reaches who reads: `pipe()` passes none of its
 * source on, and one that nobody has ends the process.
 */
export function through(source: AsyncIterable<Uint8Array>, by: Duplex): AsyncIterable<Uint8Array> {
  return pipeline(Readable.from(source), by, () => undefined);
}
