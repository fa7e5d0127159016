import { classified, type RequestContext } from "@stevedore/base";
import { type DigestAlgorithm, digestOf, isDigestAlgorithm } from "@stevedore/oci/digest";
import type {
  CommitOptions,
  ContentInfo,
  ContentReader,
  ContentStore,
  ContentWriter,
  IngestStatus,
  WriterOptions,
} from "./content.ts";
import { contentField, ingestField, matcher } from "./filters.ts";

interface Blob {
  readonly bytes: Uint8Array;
  readonly at: Date;
}

interface Ingest {
  bytes: Uint8Array;
  readonly total: number;
  readonly startedAt: Date;
  updatedAt: Date;
}

/** Content in memory, without labels: a backend for tests of what stands above one. */
export class MemoryContentStore implements ContentStore {
  readonly blobs = new Map<string, Blob>();
  readonly #ingests = new Map<string, Ingest>();
  readonly #locked = new Map<string, number>();

  info(_context: RequestContext, digest: string): Promise<ContentInfo> {
    const blob = this.blobs.get(digest);
    if (blob === undefined) return Promise.reject(classified("not-found", `content ${digest}: not found`));
    return Promise.resolve(infoOf(digest, blob));
  }

  update(): Promise<ContentInfo> {
    return Promise.reject(
      classified("failed-precondition", "update not supported on immutable content store: failed precondition"),
    );
  }

  async *list(_context: RequestContext, filters: readonly string[]): AsyncIterable<ContentInfo> {
    await Promise.resolve();
    const match = matcher(filters, contentField);
    for (const digest of [...this.blobs.keys()].sort()) {
      const blob = this.blobs.get(digest);
      if (blob !== undefined && match(infoOf(digest, blob))) yield infoOf(digest, blob);
    }
  }

  delete(_context: RequestContext, digest: string): Promise<void> {
    if (this.blobs.delete(digest)) return Promise.resolve();
    return Promise.reject(classified("not-found", `content ${digest}: not found`));
  }

  open(_context: RequestContext, digest: string): Promise<ContentReader> {
    const blob = this.blobs.get(digest);
    if (blob === undefined) return Promise.reject(classified("not-found", `content ${digest}: not found`));
    const { bytes } = blob;
    return Promise.resolve({
      size: bytes.byteLength,
      readAt: (offset, length) =>
        offset < 0
          ? Promise.reject(classified("out-of-range", `read content at negative offset ${offset}: out of range`))
          : Promise.resolve(bytes.slice(offset, offset + length)),
      [Symbol.asyncDispose]: () => Promise.resolve(),
    });
  }

  async writer(_context: RequestContext, options: WriterOptions): Promise<ContentWriter> {
    await Promise.resolve();
    const { ref, expected = "", total = 0 } = options;
    if (ref === "") throw classified("invalid-argument", "ref must not be empty: invalid argument");
    const since = this.#locked.get(ref);
    if (since !== undefined) {
      const at = new Date(since).toISOString();
      throw classified("unavailable", `ref ${ref} locked for ${Date.now() - since}ms (since ${at}): unavailable`);
    }
    if (this.blobs.has(expected)) throw classified("already-exists", `content ${expected}: already exists`);
    this.#locked.set(ref, Date.now());
    const now = new Date();
    const ingest = this.#ingests.get(ref) ?? { bytes: new Uint8Array(), total, startedAt: now, updatedAt: now };
    this.#ingests.set(ref, ingest);
    const named = options.algorithm ?? expected.split(":")[0] ?? "";
    const algorithm = isDigestAlgorithm(named) ? named : "sha256";
    return this.#writerOf(ref, ingest, { algorithm, expected });
  }

  #writerOf(
    ref: string,
    ingest: Ingest,
    { algorithm, expected }: { readonly algorithm: DigestAlgorithm; readonly expected: string },
  ): ContentWriter {
    let done = false;
    const finish = (): void => {
      if (done) throw classified("failed-precondition", "cannot use closed writer: failed precondition");
      done = true;
      this.#locked.delete(ref);
    };
    return {
      status: () => statusOf(ref, ingest, expected),
      digest: () => digestOf(ingest.bytes, algorithm),
      write: (bytes) => {
        if (done) return Promise.reject(classified("failed-precondition", "closed writer: failed precondition"));
        ingest.bytes = Buffer.concat([ingest.bytes, bytes]);
        ingest.updatedAt = new Date();
        return Promise.resolve();
      },
      truncate: (size) => {
        if (size !== 0 && size !== ingest.bytes.byteLength) {
          return Promise.reject(classified("invalid-argument", "Truncate: unsupported size: invalid argument"));
        }
        ingest.bytes = ingest.bytes.subarray(0, size);
        return Promise.resolve();
      },
      commit: async (_context, options: CommitOptions = {}) => {
        await Promise.resolve();
        finish();
        const size = ingest.bytes.byteLength;
        if (options.size !== undefined && options.size > 0 && options.size !== size) {
          throw classified(
            "failed-precondition",
            `unexpected commit size ${size}, expected ${options.size}: failed precondition`,
          );
        }
        const wanted = options.expected?.split(":")[0] ?? "";
        const digest = digestOf(ingest.bytes, isDigestAlgorithm(wanted) ? wanted : algorithm);
        if (options.expected !== undefined && options.expected !== digest) {
          throw classified(
            "failed-precondition",
            `unexpected commit digest ${digest}, expected ${options.expected}: failed precondition`,
          );
        }
        this.#ingests.delete(ref);
        if (this.blobs.has(digest)) throw classified("already-exists", `content ${digest}: already exists`);
        this.blobs.set(digest, { bytes: ingest.bytes, at: new Date() });
        return digest;
      },
      [Symbol.asyncDispose]: () => {
        if (!done) finish();
        return Promise.resolve();
      },
    };
  }

  async status(_context: RequestContext, ref: string): Promise<IngestStatus> {
    await Promise.resolve();
    const ingest = this.#ingests.get(ref);
    if (ingest === undefined) throw classified("not-found", `ingest ref ${ref}: not found`);
    return statusOf(ref, ingest, "");
  }

  async listStatuses(_context: RequestContext, filters: readonly string[]): Promise<readonly IngestStatus[]> {
    await Promise.resolve();
    const match = matcher(filters, ingestField);
    return [...this.#ingests].map(([ref, ingest]) => statusOf(ref, ingest, "")).filter(match);
  }

  abort(_context: RequestContext, ref: string): Promise<void> {
    if (this.#ingests.delete(ref)) return Promise.resolve();
    return Promise.reject(classified("not-found", `ingest ref ${ref}: not found`));
  }
}

function infoOf(digest: string, blob: Blob): ContentInfo {
  return { digest, size: blob.bytes.byteLength, createdAt: blob.at, updatedAt: blob.at, labels: {} };
}

function statusOf(ref: string, ingest: Ingest, expected: string): IngestStatus {
  const { bytes, total, startedAt, updatedAt } = ingest;
  return { ref, offset: bytes.byteLength, total, expected, startedAt, updatedAt };
}
