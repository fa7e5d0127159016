import { classified } from "@stevedore/base/errors";
import type { TarHeader } from "./header.ts";
import { type TarLimits, TarParser } from "./parser.ts";

/** One entry of {@link readTar}. */
export interface TarEntry {
  readonly header: TarHeader;
  /**
   * The file's bytes, holes filled with zeros. May be read once, and only before the next entry is asked for; what is
   * not read is skipped.
   */
  body(): AsyncIterable<Uint8Array>;
  /** The whole body at once. @throws out-of-range when the file is longer than `maxBytes` */
  bytes(maxBytes: number): Promise<Uint8Array>;
}

type Part =
  | { readonly kind: "entry"; readonly header: TarHeader }
  | { readonly kind: "data"; readonly bytes: Uint8Array; readonly offset: number }
  | { readonly kind: "finish" };

/** Zeros handed out for holes. */
const ZEROS = new Uint8Array(65_536);

/**
 * Reads an archive entry by entry, pulling from `source` no faster than the caller reads. Errors as {@link TarParser}.
 */
export async function* readTar(
  source: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  limits: TarLimits = {},
): AsyncGenerator<TarEntry, void, void> {
  const queue: Part[] = [];
  const parser = new TarParser(
    {
      entry: (header) => queue.push({ kind: "entry", header }),
      // The chunk they point into lives until the queue is empty, since only then the next one is asked for.
      data: (bytes, offset) => queue.push({ kind: "data", bytes, offset }),
      finish: () => queue.push({ kind: "finish" }),
    },
    limits,
  );
  const chunks = Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]();
  let ended = false;
  let at = 0;
  const next = async (): Promise<Part | undefined> => {
    while (at >= queue.length) {
      queue.length = 0;
      at = 0;
      if (ended) return undefined;
      const chunk = await chunks.next();
      if (chunk.done === true) {
        ended = true;
        parser.end();
        return undefined;
      }
      parser.push(chunk.value);
    }
    return queue[at++];
  };
  try {
    for (;;) {
      const part = await next();
      if (part === undefined) return;
      if (part.kind !== "entry") continue; // what is left of a body nobody read
      const { header } = part;
      let open = true;
      const body = async function* (): AsyncGenerator<Uint8Array, void, void> {
        let reached = 0;
        while (open) {
          const piece = await next();
          if (piece === undefined || piece.kind === "entry") {
            throw classified("internal", `read archive: entry ${JSON.stringify(header.name)} ended early`);
          }
          if (piece.kind === "finish") open = false;
          const until = piece.kind === "finish" ? header.size : piece.offset;
          while (reached < until) {
            const zeros = ZEROS.subarray(0, Math.min(ZEROS.length, until - reached));
            reached += zeros.length;
            yield zeros;
          }
          if (piece.kind === "data") {
            reached += piece.bytes.length;
            yield piece.bytes;
          }
        }
      };
      yield {
        header,
        body,
        bytes: async (maxBytes) => {
          if (header.size > maxBytes) {
            throw classified(
              "out-of-range",
              `read archive: entry ${JSON.stringify(header.name)} has ${header.size} bytes, limit ${maxBytes}`,
            );
          }
          const all = new Uint8Array(header.size);
          let filled = 0;
          for await (const bytes of body()) {
            all.set(bytes, filled);
            filled += bytes.length;
          }
          return all;
        },
      };
    }
  } finally {
    if (!ended) await chunks.return?.();
  }
}
