import { classified, isErrorClass, type RequestContext } from "@stevedore/base";
import {
  type CommitOptions,
  type ContentInfo,
  type ContentReader,
  type ContentStore,
  type ContentWriter,
  contentField,
  type FieldMask,
  goQuote,
  type IngestStatus,
  ingestField,
  type KeyedLock,
  matcher,
  type WriterOptions,
} from "@stevedore/core";
import type { MetadataDatabase } from "./database.ts";
import { type ContentRow, checkLabels, contentOf } from "./procedures/content.ts";
import type { Scope } from "./procedures/shared.ts";
import { decodeLabels } from "./rows.ts";
import { scopeOf } from "./scope.ts";
import { statement } from "./statement.ts";

/** `shared`: a blob any namespace has is given to another that asks for it by digest. `isolated`: it has to be sent again. */
export type SharingPolicy = "shared" | "isolated";

/** On a namespace: its blobs may be had by all, also under the isolated policy. */
const SHARED_NAMESPACE_LABEL = "containerd.io/namespace.shareable";
/** Rows read at once while listing: below a millisecond. */
const PAGE = 256;
/** Bytes copied at once when a shared blob turns out to be written to. */
const COPY_CHUNK = 1024 * 1024;

const select = statement<ContentRow, [string, string]>("SELECT * FROM content WHERE namespace = ? AND digest = ?");
const page = statement<ContentRow, [string, string, number]>(
  "SELECT * FROM content WHERE namespace = ? AND digest > ? ORDER BY digest LIMIT ?",
);
const selectIngest = statement<{ backend_ref: string }, [string, string]>(
  "SELECT backend_ref FROM ingests WHERE namespace = ? AND ref = ?",
);
const ingests = statement<{ ref: string; backend_ref: string }, [string]>(
  "SELECT ref, backend_ref FROM ingests WHERE namespace = ? ORDER BY ref",
);
const owners = statement<{ labels: string }, [string]>(
  "SELECT n.labels FROM content c JOIN namespaces n ON n.name = c.namespace WHERE c.digest = ?",
);

export interface MetadataContentOptions {
  readonly database: MetadataDatabase;
  readonly backend: ContentStore;
  readonly policy: SharingPolicy;
  /** Held for a digest from before its file appears until its record is written, and by who removes files. */
  readonly digests: KeyedLock;
  /** Tells the collector that the backend may have to delete a blob. */
  readonly discard: (digest: string) => void;
}

/** Content by namespace over a backend that has none: records, labels, leases and ingests of each. */
export class MetadataContentStore implements ContentStore {
  readonly #database: MetadataDatabase;
  readonly #backend: ContentStore;
  readonly #policy: SharingPolicy;
  readonly #digests: KeyedLock;
  readonly #discard: (digest: string) => void;

  constructor(options: MetadataContentOptions) {
    this.#database = options.database;
    this.#backend = options.backend;
    this.#policy = options.policy;
    this.#digests = options.digests;
    this.#discard = options.discard;
  }

  async info(context: RequestContext, digest: string): Promise<ContentInfo> {
    await Promise.resolve();
    return contentOf(this.#row(scopeOf(context).namespace, digest));
  }

  #row(namespace: string, digest: string): ContentRow {
    const row = select(this.#database.reader).get(namespace, digest);
    if (row === null) throw classified("not-found", `content digest ${digest}: not found`);
    return row;
  }

  async update(
    context: RequestContext,
    info: Pick<ContentInfo, "digest" | "labels">,
    fields: FieldMask,
  ): Promise<ContentInfo> {
    const scope = scopeOf(context);
    return this.#database.call("updateContent", { scope, digest: info.digest, labels: info.labels, fields });
  }

  async *list(context: RequestContext, filters: readonly string[]): AsyncIterable<ContentInfo> {
    const { namespace } = scopeOf(context);
    const match = matcher(filters, contentField);
    for (let after = ""; ; ) {
      context.signal.throwIfAborted();
      const rows = page(this.#database.reader).all(namespace, after, PAGE);
      for (const row of rows) {
        const info = contentOf(row);
        if (match(info)) yield info;
        after = row.digest;
      }
      if (rows.length < PAGE) return;
    }
  }

  async delete(context: RequestContext, digest: string): Promise<void> {
    await this.#database.call("deleteContent", { scope: scopeOf(context), digest }, context);
    this.#discard(digest);
  }

  async open(context: RequestContext, digest: string): Promise<ContentReader> {
    this.#row(scopeOf(context).namespace, digest);
    return this.#backend.open(context, digest);
  }

  async writer(context: RequestContext, options: WriterOptions): Promise<ContentWriter> {
    const { ref, expected = "", total = 0 } = options;
    if (ref === "") throw classified("invalid-argument", "ref must not be empty: invalid argument");
    const scope = scopeOf(context);
    const shared = await this.#openIngest(context, scope, options);
    const { backendRef, sharedSize } = shared;
    const base = {
      database: this.#database,
      backend: this.#backend,
      digests: this.#digests,
      discard: this.#discard,
      scope,
      ref,
      backendRef,
      algorithm: options.algorithm ?? algorithmOf(expected),
      expected,
    };
    if (sharedSize !== undefined) return new NamespacedWriter({ ...base, sharedSize, inner: undefined });
    const inner = await this.#backend.writer(context, {
      ref: backendRef,
      ...(total > 0 ? { total } : {}),
      ...(base.algorithm === undefined ? {} : { algorithm: base.algorithm }),
    });
    return new NamespacedWriter({ ...base, sharedSize: undefined, inner });
  }

  /** Records the ingest. `sharedSize` is set when the backend has the blob and this namespace may take it. */
  async #openIngest(
    context: RequestContext,
    scope: Scope,
    options: WriterOptions,
  ): Promise<{ backendRef: string; sharedSize: number | undefined }> {
    const { ref, expected = "", total = 0 } = options;
    // Nobody removes the file between the look at it and the record that keeps it.
    using _held = expected === "" ? undefined : await this.#digests.acquire(expected, context.signal);
    const size = expected !== "" && this.#mayShare(expected) ? await this.#sizeOf(context, expected) : undefined;
    const sharedSize = size !== undefined && (total === 0 || total === size) ? size : undefined;
    const opened = await this.#database.call("openIngest", {
      scope,
      ref,
      expected,
      shared: sharedSize !== undefined,
    });
    if (opened.exists) throw classified("already-exists", `content ${expected}: already exists`);
    return { backendRef: opened.backendRef, sharedSize };
  }

  #mayShare(digest: string): boolean {
    if (this.#policy === "shared") return true;
    return owners(this.#database.reader)
      .all(digest)
      .some((row) => {
        const labels = decodeLabels(row.labels);
        return Object.hasOwn(labels, SHARED_NAMESPACE_LABEL) && labels[SHARED_NAMESPACE_LABEL] === "true";
      });
  }

  async #sizeOf(context: RequestContext, digest: string): Promise<number | undefined> {
    try {
      return (await this.#backend.info(context, digest)).size;
    } catch {
      return undefined;
    }
  }

  async status(context: RequestContext, ref: string): Promise<IngestStatus> {
    const row = selectIngest(this.#database.reader).get(scopeOf(context).namespace, ref);
    if (row === null) throw classified("not-found", `reference ${ref}: not found`);
    return { ...(await this.#backend.status(context, row.backend_ref)), ref };
  }

  async listStatuses(context: RequestContext, filters: readonly string[]): Promise<readonly IngestStatus[]> {
    const match = matcher(filters, ingestField);
    const found: IngestStatus[] = [];
    for (const row of ingests(this.#database.reader).all(scopeOf(context).namespace)) {
      context.signal.throwIfAborted();
      try {
        const status = { ...(await this.#backend.status(context, row.backend_ref)), ref: row.ref };
        if (match(status)) found.push(status);
      } catch (error) {
        // Committed meanwhile, or a shared blob that has no ingest below.
        if (!isErrorClass(error, "not-found")) throw error;
      }
    }
    return found;
  }

  async abort(context: RequestContext, ref: string): Promise<void> {
    const { backendRef, released } = await this.#database.call("abortIngest", { scope: scopeOf(context), ref });
    if (released !== "") this.#discard(released);
    await this.#backend.abort(context, backendRef).catch((error: unknown) => {
      if (!isErrorClass(error, "not-found")) throw error;
    });
  }
}

function algorithmOf(digest: string): string | undefined {
  return digest === "" ? undefined : digest.split(":")[0];
}

interface NamespacedWriterOptions {
  readonly database: MetadataDatabase;
  readonly backend: ContentStore;
  readonly digests: KeyedLock;
  readonly discard: (digest: string) => void;
  readonly scope: Scope;
  readonly ref: string;
  readonly backendRef: string;
  readonly algorithm: string | undefined;
  /** Digest the caller named. */
  readonly expected: string;
  /** Bytes of the blob another namespace has, and which stands for this one until something is written. */
  readonly sharedSize: number | undefined;
  readonly inner: ContentWriter | undefined;
}

class NamespacedWriter implements ContentWriter {
  readonly #options: NamespacedWriterOptions;
  readonly #startedAt = new Date();
  #inner: ContentWriter | undefined;
  #done = false;

  constructor(options: NamespacedWriterOptions) {
    this.#options = options;
    this.#inner = options.inner;
  }

  status(): IngestStatus {
    const { ref, expected } = this.#options;
    if (this.#inner !== undefined) return { ...this.#inner.status(), ref, expected };
    const size = this.#options.sharedSize ?? 0;
    return { ref, offset: size, total: size, expected, startedAt: this.#startedAt, updatedAt: this.#startedAt };
  }

  digest(): string {
    return this.#inner?.digest() ?? this.#options.expected;
  }

  async write(bytes: Uint8Array): Promise<void> {
    if (this.#inner === undefined && bytes.byteLength === 0) return;
    const inner = this.#inner ?? (await this.#unshare(true));
    await inner.write(bytes);
  }

  async truncate(size: number): Promise<void> {
    if (this.#inner === undefined) {
      if (size === this.#options.sharedSize) return;
      if (size !== 0) throw classified("invalid-argument", "Truncate: unsupported size: invalid argument");
      await this.#unshare(false);
      return;
    }
    await this.#inner.truncate(size);
  }

  /** Begins an ingest of its own, with the shared blob's bytes in it. */
  async #unshare(copy: boolean): Promise<ContentWriter> {
    if (this.#done) throw classified("failed-precondition", "cannot write on closed writer: failed precondition");
    const { backend, backendRef, algorithm, expected } = this.#options;
    const context = { signal: new AbortController().signal };
    const inner = await backend.writer(context, {
      ref: backendRef,
      ...(algorithm === undefined ? {} : { algorithm }),
    });
    try {
      await inner.truncate(0);
      if (copy) {
        await using reader = await backend.open(context, expected);
        for (let at = 0; at < reader.size; at += COPY_CHUNK) {
          await inner.write(await reader.readAt(at, COPY_CHUNK));
        }
      }
    } catch (error) {
      await inner[Symbol.asyncDispose]();
      throw error;
    }
    this.#inner = inner;
    return inner;
  }

  async commit(context: RequestContext, options: CommitOptions = {}): Promise<string> {
    if (this.#done) throw classified("failed-precondition", "cannot commit on closed writer: failed precondition");
    this.#done = true;
    const { database, digests, ref } = this.#options;
    await using undo = new AsyncDisposableStack();
    if (this.#inner !== undefined) undo.use(this.#inner);
    // The lease of the commit counts; the namespace is the writer's.
    const scope = { ...this.#options.scope, lease: context.lease === "" ? undefined : context.lease };
    checkLabels(options.labels ?? {});
    const found = this.#found(options);
    using _held = await digests.acquire(found.digest, context.signal);
    const digest =
      this.#inner === undefined
        ? found.digest
        : await this.#inner
            .commit(context, {
              size: found.size,
              ...(options.expected === undefined ? {} : { expected: options.expected }),
            })
            .catch((error: unknown) => {
              // Another namespace has it: the file is the same.
              if (found.digest === "" || !isErrorClass(error, "already-exists")) throw error;
              return found.digest;
            });
    // A backend in another process may tell the digest only when it commits.
    using _heldToo = digest === found.digest ? undefined : await digests.acquire(digest, context.signal);
    const { existed, released } = await database.call(
      "commitContent",
      { scope, ref, digest, size: found.size, labels: options.labels ?? {} },
      // The namespace is the writer's, also in what is told.
      { ...context, namespace: scope.namespace },
    );
    if (released !== "") this.#options.discard(released);
    if (existed) throw classified("already-exists", `content ${digest}: already exists`);
    return digest;
  }

  /** What is to be committed. @throws failed-precondition if it is not what the caller says */
  #found(options: CommitOptions): { readonly size: number; readonly digest: string } {
    const { ref, expected } = this.#options;
    const size = this.#inner?.status().offset ?? this.#options.sharedSize ?? 0;
    if (options.size !== undefined && options.size !== 0 && options.size !== size) {
      throw classified(
        "failed-precondition",
        `${goQuote(ref)} failed size validation: ${size} != ${options.size}: failed precondition`,
      );
    }
    const wanted = options.expected ?? "";
    if (this.#inner === undefined) {
      if (wanted !== "" && wanted !== expected) {
        throw classified("failed-precondition", `${goQuote(ref)} unexpected digest: failed precondition`);
      }
      return { size, digest: expected };
    }
    const digest = this.#inner.digest();
    // With another algorithm the backend hashes again and decides.
    const unknown = wanted !== "" && algorithmOf(wanted) !== algorithmOf(digest);
    return { size, digest: unknown ? wanted : digest };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#done) return;
    this.#done = true;
    await this.#inner?.[Symbol.asyncDispose]();
  }
}
