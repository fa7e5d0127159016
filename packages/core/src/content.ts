import type { RequestContext } from "@stevedore/base";
import type { FieldMask, Labels } from "./labels.ts";

/** A committed blob. */
export interface ContentInfo {
  readonly digest: string;
  /** Bytes. */
  readonly size: number;
  readonly createdAt: Date;
  readonly updatedAt: Date;
  readonly labels: Labels;
}

/** An ingest: a blob being written under a ref. */
export interface IngestStatus {
  readonly ref: string;
  /** Bytes written so far. */
  readonly offset: number;
  /** Bytes expected, 0 when unknown. */
  readonly total: number;
  /** Digest expected, "" when unknown. */
  readonly expected: string;
  readonly startedAt: Date;
  readonly updatedAt: Date;
}

/** Random access to a committed blob. The owner closes it. */
export interface ContentReader extends AsyncDisposable {
  readonly size: number;
  /**
   * Up to `length` bytes from `offset`; fewer at the end, none past it. The bytes belong to the caller.
   * @throws out-of-range for a negative offset.
   */
  readAt(offset: number, length: number): Promise<Uint8Array>;
  /** A descriptor open for reading, when the blob is a local file; it belongs to the reader. */
  readonly fd?: number;
}

/** What a blob must be to be committed. */
export interface CommitOptions {
  /** Bytes the blob must have; 0 or absent: not checked. */
  readonly size?: number;
  /** Digest the blob must have; absent: the computed one. */
  readonly expected?: string;
  readonly labels?: Labels;
}

/**
 * A write in progress. One writer per ref at a time. Dispose without commit keeps the ingest for a later resume.
 */
export interface ContentWriter extends AsyncDisposable {
  /** Appends; resolves when the bytes are in the file (not yet durable). Calls must not overlap. */
  write(bytes: Uint8Array): Promise<void>;
  /**
   * Makes the blob durable and visible: size and digest checked, file synced and renamed, record written. The writer is
   * done afterwards, also when this throws.
   * @returns the digest.
   * @throws failed-precondition for a size or digest that differs; already-exists if the blob is there already (the
   *   ingest is removed and the blob is added to the caller's lease, so a caller may treat it as success).
   */
  commit(context: RequestContext, options?: CommitOptions): Promise<string>;
  status(): IngestStatus;
  /** Digest of what was written so far. */
  digest(): string;
  /**
   * Cuts or restarts the ingest at `size` bytes.
   * @throws invalid-argument unless size is 0 or the current offset.
   */
  truncate(size: number): Promise<void>;
}

/** What a writer writes. */
export interface WriterOptions {
  readonly ref: string;
  /** Descriptor's size and digest, when known. */
  readonly total?: number;
  readonly expected?: string;
  /** Hash the blob is stored under: `sha256` (default), `sha384`, `sha512`. Absent: that of `expected`. */
  readonly algorithm?: string;
}

/**
 * Addressable, immutable content. The metadata store wraps a backend with namespaces, leases and labels; both have this
 * shape. Refs are per namespace when wrapped.
 */
export interface ContentStore {
  /** @throws not-found */
  info(context: RequestContext, digest: string): Promise<ContentInfo>;
  /**
   * Changes labels (the only mutable part). `fields` are paths `labels` or `labels.<key>`; empty: replace all labels.
   * @throws not-found; invalid-argument for another path or a label that is too long.
   */
  update(
    context: RequestContext,
    info: Pick<ContentInfo, "digest" | "labels">,
    fields: FieldMask,
  ): Promise<ContentInfo>;
  /** Each blob that matches any filter (`digest`, `size`, `labels."k"`), in digest order. */
  list(context: RequestContext, filters: readonly string[]): AsyncIterable<ContentInfo>;
  /** Removes the record (and, un-namespaced, the file). @throws not-found */
  delete(context: RequestContext, digest: string): Promise<void>;
  /** @throws not-found */
  open(context: RequestContext, digest: string): Promise<ContentReader>;
  /**
   * A whole blob, or undefined for one above `limit` bytes. Stores have it for which opening and reading are two calls
   * over a wire.
   * @throws not-found
   */
  readonly readWhole?: (context: RequestContext, digest: string, limit: number) => Promise<Uint8Array | undefined>;
  /**
   * Opens or resumes the ingest of `ref`.
   * @throws unavailable `ref "x" locked` if another writer holds the ref; already-exists if `expected` is committed.
   */
  writer(context: RequestContext, options: WriterOptions): Promise<ContentWriter>;
  /** @throws not-found */
  status(context: RequestContext, ref: string): Promise<IngestStatus>;
  listStatuses(context: RequestContext, filters: readonly string[]): Promise<readonly IngestStatus[]>;
  /** Drops an ingest. @throws not-found */
  abort(context: RequestContext, ref: string): Promise<void>;
}
