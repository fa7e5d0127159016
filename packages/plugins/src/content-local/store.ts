import { type FileHandle, mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { classified, createLogger, type Logger, type RequestContext, withContext } from "@stevedore/base";
import {
  type ContentInfo,
  type ContentReader,
  type ContentStore,
  type ContentWriter,
  contentField,
  goQuote,
  type IngestStatus,
  ingestField,
  KeyedLock,
  matcher,
  type WriterOptions,
} from "@stevedore/core";
import { type DigestAlgorithm, Digester, digestOf, isDigestAlgorithm, parseDigest } from "@stevedore/oci/digest";
import { fileError, isNotFound } from "./file-error.ts";
import { OpenBlobs } from "./open-blobs.ts";
import { LocalReader } from "./reader.ts";
import { LocalWriter } from "./writer.ts";

export interface LocalContentOptions {
  /** The plugin's folder, `<root>/io.containerd.content.v1.content`; made if missing. */
  readonly directory: string;
  readonly log?: Logger;
}

/** Bytes read at once when an ingest is resumed. */
const RESUME_CHUNK = 1024 * 1024;
/** Blobs looked at together while listing: bounds open work, not the listing. */
const LIST_CHUNK = 64;

/**
 * Opens the content store in a folder of containerd's layout:
 * `blobs/<algorithm>/<hex>` and `ingest/<sha256 of ref>/{data,ref,total,startedat,updatedat}`.
 *
 * It knows no namespaces, leases or labels; the metadata store wraps it. What an earlier run left half made is removed.
 */
export async function createLocalContent(options: LocalContentOptions): Promise<ContentStore> {
  const store = new LocalContentStore(options);
  await store.prepare();
  return store;
}

class LocalContentStore implements ContentStore {
  readonly #root: string;
  readonly #log: Logger;
  /** Since when each ref is held by a writer, in milliseconds since the epoch. */
  readonly #refs = new Map<string, number>();
  readonly #digests = new KeyedLock();
  readonly #open = new OpenBlobs();

  constructor(options: LocalContentOptions) {
    this.#root = options.directory;
    this.#log = options.log ?? createLogger();
  }

  async prepare(): Promise<void> {
    await mkdir(this.#root, { recursive: true, mode: 0o755 });
    const ingests = join(this.#root, "ingest");
    await mkdir(ingests, { recursive: true, mode: 0o777 });
    for (const name of await readdir(ingests)) {
      const path = join(ingests, name);
      const ref = await readText(join(path, "ref"));
      // Without its ref (or under another's name) an ingest can never be resumed; without data there is nothing to resume.
      const hasData = (await stat(join(path, "data")).catch(() => undefined)) !== undefined;
      if (ref !== undefined && nameOf(ref) === name && hasData) continue;
      this.#log.info("removing an ingest that cannot be resumed", { path });
      await rm(path, { recursive: true, force: true });
    }
  }

  async info(_context: RequestContext, digest: string): Promise<ContentInfo> {
    return this.#info(digest, this.#blobPath("calculating blob info path", digest));
  }

  async #info(digest: string, path: string): Promise<ContentInfo> {
    try {
      const { size, mtime, atime } = await stat(path);
      return { digest, size, createdAt: mtime, updatedAt: atime, labels: {} };
    } catch (error) {
      if (isNotFound(error)) throw classified("not-found", `content ${digest}: not found`);
      throw fileError(`stat content ${digest}`, error);
    }
  }

  update(): Promise<ContentInfo> {
    return Promise.reject(
      classified("failed-precondition", "update not supported on immutable content store: failed precondition"),
    );
  }

  async *list(context: RequestContext, filters: readonly string[]): AsyncIterable<ContentInfo> {
    const match = matcher(filters, contentField);
    for (const algorithm of (await readNames(join(this.#root, "blobs"))).filter(isDigestAlgorithm).sort()) {
      const names = (await readNames(join(this.#root, "blobs", algorithm))).sort();
      for (let at = 0; at < names.length; at += LIST_CHUNK) {
        context.signal.throwIfAborted();
        const chunk = names.slice(at, at + LIST_CHUNK).map((hex) => this.#listed(`${algorithm}:${hex}`));
        for (const info of await Promise.all(chunk)) if (info !== undefined && match(info)) yield info;
      }
    }
  }

  async #listed(digest: string): Promise<ContentInfo | undefined> {
    try {
      return await this.#info(digest, this.#blobPath("calculating blob info path", digest));
    } catch {
      // Deleted meanwhile, or a file that is no blob.
      return undefined;
    }
  }

  async delete(_context: RequestContext, digest: string): Promise<void> {
    const path = this.#blobPath("calculating blob path for delete", digest);
    using _held = await this.#digests.acquire(digest);
    await this.#open.forget(path);
    try {
      await rm(path);
    } catch (error) {
      if (isNotFound(error)) throw classified("not-found", `content ${digest}: not found`);
      throw fileError(`delete content ${digest}`, error);
    }
  }

  async open(_context: RequestContext, digest: string): Promise<ContentReader> {
    const path = this.#blobPath("calculating blob path for ReaderAt", digest);
    try {
      return new LocalReader(await this.#open.use(path));
    } catch (error) {
      if (isNotFound(error)) throw classified("not-found", `blob ${digest} expected at ${path}: not found`);
      throw fileError(`open content ${digest}`, error);
    }
  }

  async writer(context: RequestContext, options: WriterOptions): Promise<ContentWriter> {
    const { ref, expected = "" } = options;
    if (ref === "") throw classified("invalid-argument", "ref must not be empty: invalid argument");
    const algorithm = algorithmOf(options);
    this.#lock(ref);
    try {
      if (expected !== "") {
        const path = this.#blobPath("calculating expected blob path for writer", expected);
        if ((await stat(path).catch(() => undefined)) !== undefined) {
          throw classified("already-exists", `content ${expected}: already exists`);
        }
      }
      return await this.#openWriter(context, algorithm, options);
    } catch (error) {
      this.#refs.delete(ref);
      throw error;
    }
  }

  async #openWriter(
    context: RequestContext,
    algorithm: DigestAlgorithm,
    options: WriterOptions,
  ): Promise<ContentWriter> {
    const { ref, total = 0 } = options;
    const path = this.#ingestPath(ref);
    const existing = await mkdir(path, { mode: 0o755 }).then(
      () => false,
      (error: unknown) => {
        if (error instanceof Error && "code" in error && error.code === "EEXIST") return true;
        throw fileError(`create ingest ${goQuote(ref)}`, error);
      },
    );
    await using undo = new AsyncDisposableStack();
    const resumed = existing ? await this.#resume(context, path, { ref, total, algorithm }) : undefined;
    const now = new Date();
    if (resumed === undefined) {
      await writeIngest(path, ref, total, now);
    }
    let file: FileHandle;
    try {
      file = await open(join(path, "data"), resumed === undefined ? "w" : "r+", 0o666);
    } catch (error) {
      throw fileError(`open ingest ${goQuote(ref)}`, error);
    }
    undo.use(file);
    const writer = new LocalWriter({
      file,
      path,
      ref,
      total: resumed?.status.total ?? total,
      expected: options.expected ?? "",
      digester: resumed?.digester ?? new Digester(algorithm),
      startedAt: resumed?.status.startedAt ?? now,
      updatedAt: resumed?.status.updatedAt ?? now,
      blobs: join(this.#root, "blobs"),
      digests: this.#digests,
      replaced: async (blob) => this.#open.forget(blob),
      release: () => this.#refs.delete(ref),
      log: this.#log,
    });
    undo.move();
    return writer;
  }

  /** Hashes what an ingest has so far. Undefined if it has to start anew. */
  async #resume(
    context: RequestContext,
    path: string,
    wanted: { readonly ref: string; readonly total: number; readonly algorithm: DigestAlgorithm },
  ): Promise<{ status: IngestStatus; digester: Digester } | undefined> {
    try {
      const status = await readStatus(path);
      if (status.ref !== wanted.ref) throw new Error(`ref key does not match: ${wanted.ref} != ${status.ref}`);
      if (wanted.total > 0 && status.total > 0 && wanted.total !== status.total) {
        throw new Error(`provided total differs from status: ${wanted.total} != ${status.total}`);
      }
      const digester = new Digester(wanted.algorithm);
      await using file = await open(join(path, "data"), "r");
      const buffer = Buffer.allocUnsafe(RESUME_CHUNK);
      for (;;) {
        context.signal.throwIfAborted();
        const { bytesRead } = await file.read(buffer, 0, RESUME_CHUNK, digester.size);
        if (bytesRead === 0) return { status, digester };
        digester.update(buffer.subarray(0, bytesRead));
      }
    } catch (error) {
      context.signal.throwIfAborted();
      this.#log.info("ingest cannot be resumed and starts anew", { path, reason: String(error) });
      return undefined;
    }
  }

  async status(_context: RequestContext, ref: string): Promise<IngestStatus> {
    return readStatus(this.#ingestPath(ref));
  }

  async listStatuses(context: RequestContext, filters: readonly string[]): Promise<readonly IngestStatus[]> {
    const match = matcher(filters, ingestField);
    const found: IngestStatus[] = [];
    for (const name of await readNames(join(this.#root, "ingest"))) {
      context.signal.throwIfAborted();
      try {
        const status = await readStatus(join(this.#root, "ingest", name));
        if (match(status)) found.push(status);
      } catch {
        // Committed or aborted meanwhile.
      }
    }
    return found;
  }

  async abort(_context: RequestContext, ref: string): Promise<void> {
    const path = this.#ingestPath(ref);
    // Renamed first, so that it is gone at once, and for good after a crash.
    const gone = `${path}.${crypto.randomUUID()}.tmp`;
    try {
      await rename(path, gone);
      await rm(gone, { recursive: true, force: true });
    } catch (error) {
      if (isNotFound(error)) throw classified("not-found", `ingest ref ${goQuote(ref)}: not found`);
      throw fileError(`abort ingest ${goQuote(ref)}`, error);
    }
  }

  #lock(ref: string): void {
    const since = this.#refs.get(ref);
    if (since === undefined) {
      this.#refs.set(ref, Date.now());
      return;
    }
    const held = (Date.now() - since) / 1000;
    const at = new Date(since).toISOString().replace("T", " ").replace("Z", " +0000 UTC");
    throw classified("unavailable", `ref ${ref} locked for ${held}s (since ${at}): unavailable`);
  }

  #blobPath(doing: string, digest: string): string {
    try {
      const { algorithm, encoded } = parseDigest(digest);
      return join(this.#root, "blobs", algorithm, encoded);
    } catch (error) {
      const why = withContext(`${doing}: cannot calculate blob path from invalid digest`, error);
      throw classified("invalid-argument", `${why.message}: invalid argument`);
    }
  }

  #ingestPath(ref: string): string {
    return join(this.#root, "ingest", nameOf(ref));
  }
}

function algorithmOf(options: WriterOptions): DigestAlgorithm {
  const named = options.algorithm ?? options.expected?.split(":")[0] ?? "";
  if (options.algorithm !== undefined && !isDigestAlgorithm(options.algorithm)) {
    throw classified(
      "invalid-argument",
      `unsupported digest algorithm ${goQuote(options.algorithm)}: invalid argument`,
    );
  }
  return isDigestAlgorithm(named) ? named : "sha256";
}

/** Name of an ingest's folder: refs have any length and any characters. */
function nameOf(ref: string): string {
  return digestOf(ref).slice("sha256:".length);
}

async function writeIngest(path: string, ref: string, total: number, now: Date): Promise<void> {
  try {
    await rm(join(path, "total"), { force: true });
    await writeFile(join(path, "startedat"), now.toISOString());
    await writeFile(join(path, "updatedat"), now.toISOString());
    if (total > 0) await writeFile(join(path, "total"), String(total));
    // The ref comes last: an ingest without it is garbage to the next start.
    await writeFile(join(path, "ref"), ref);
  } catch (error) {
    throw fileError(`create ingest ${goQuote(ref)}`, error);
  }
}

async function readStatus(path: string): Promise<IngestStatus> {
  const data = join(path, "data");
  let size: number;
  let mtime: Date;
  try {
    ({ size, mtime } = await stat(data));
  } catch (error) {
    if (isNotFound(error)) throw classified("not-found", `stat ${data}: no such file or directory: not found`);
    throw fileError(`stat ${data}`, error);
  }
  const [ref, startedAt, updatedAt, total] = await Promise.all([
    readText(join(path, "ref")),
    readTime(join(path, "startedat")),
    readTime(join(path, "updatedat")),
    readText(join(path, "total")),
  ]);
  if (ref === undefined) {
    throw classified("not-found", `open ${join(path, "ref")}: no such file or directory: not found`);
  }
  const expectedTotal = Number(total ?? "0");
  return {
    ref,
    offset: size,
    total: Number.isSafeInteger(expectedTotal) && expectedTotal > 0 ? expectedTotal : 0,
    expected: "",
    startedAt,
    // Not rewritten at each write, so the file's own time may be later.
    updatedAt: mtime > updatedAt ? mtime : updatedAt,
  };
}

async function readTime(path: string): Promise<Date> {
  const time = new Date((await readText(path)) ?? "");
  if (Number.isNaN(time.getTime())) {
    throw classified("internal", `could not parse timestamp file ${path}: internal`);
  }
  return time;
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch {
    return undefined;
  }
}

async function readNames(path: string): Promise<string[]> {
  try {
    return await readdir(path);
  } catch (error) {
    if (isNotFound(error)) return [];
    throw fileError(`read ${path}`, error);
  }
}
