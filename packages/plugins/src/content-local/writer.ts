import { type FileHandle, mkdir, open, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { classified, type Logger, type RequestContext } from "@stevedore/base";
import type { CommitOptions, ContentWriter, IngestStatus, KeyedLock } from "@stevedore/core";
import { Digester, isDigestAlgorithm, parseDigest } from "@stevedore/oci/digest";
import { fileError, isNotFound } from "./file-error.ts";

export interface LocalWriterOptions {
  /** Open for writing; the writer closes it. */
  readonly file: FileHandle;
  /** The ingest's folder. */
  readonly path: string;
  readonly ref: string;
  readonly total: number;
  readonly expected: string;
  /** Holds the hash of the bytes that are in the file. */
  readonly digester: Digester;
  readonly startedAt: Date;
  readonly updatedAt: Date;
  /** The folder `blobs`. */
  readonly blobs: string;
  /** Locks against deletion, by digest. */
  readonly digests: KeyedLock;
  /** Told of a blob whose file another took the place of. */
  readonly replaced: (path: string) => Promise<void>;
  /** Lets go of the ref. */
  readonly release: () => void;
  readonly log: Logger;
}

/** Bytes read at once when a blob has to be hashed again with another algorithm. */
const REHASH_CHUNK = 1024 * 1024;
/** Every so many bytes the kernel is asked to write out what it has, so that the final sync is short. */
const WRITE_OUT_BYTES = 64 * 1024 * 1024;

/** `open`: more may come. `broken`: file and hash differ after a failed write. `done`: committed, failed or closed. */
type State = "open" | "broken" | "done";

export class LocalWriter implements ContentWriter {
  readonly #options: LocalWriterOptions;
  readonly #startedAt: Date;
  #digester: Digester;
  #updatedAt: Date;
  #offset: number;
  #state: State = "open";
  #busy = false;
  #writtenOut = 0;
  #writingOut: Promise<void> | undefined;

  constructor(options: LocalWriterOptions) {
    this.#options = options;
    this.#digester = options.digester;
    this.#offset = options.digester.size;
    this.#startedAt = options.startedAt;
    this.#updatedAt = options.updatedAt;
  }

  status(): IngestStatus {
    return {
      ref: this.#options.ref,
      offset: this.#offset,
      total: this.#options.total,
      expected: this.#options.expected,
      startedAt: this.#startedAt,
      updatedAt: this.#updatedAt,
    };
  }

  digest(): string {
    return this.#digester.digest();
  }

  async write(bytes: Uint8Array): Promise<void> {
    this.#requireOpen("write");
    if (this.#busy) throw classified("failed-precondition", "overlapping writes to one ingest: failed precondition");
    if (bytes.byteLength === 0) return;
    this.#busy = true;
    try {
      // The kernel copies in a thread of its own while this one hashes.
      const written = this.#writeAll(bytes);
      this.#digester.update(bytes);
      await written;
      this.#offset += bytes.byteLength;
      this.#updatedAt = new Date();
      this.#startWriteOut();
    } catch (error) {
      this.#state = "broken";
      throw fileError(`write ingest ${this.#options.ref}`, error);
    } finally {
      this.#busy = false;
    }
  }

  async #writeAll(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.byteLength; ) {
      const { bytesWritten } = await this.#options.file.write(bytes, at, bytes.byteLength - at, this.#offset + at);
      at += bytesWritten;
    }
  }

  #startWriteOut(): void {
    if (this.#writingOut !== undefined || this.#offset - this.#writtenOut < WRITE_OUT_BYTES) return;
    this.#writtenOut = this.#offset;
    this.#writingOut = this.#writeOut();
  }

  async #writeOut(): Promise<void> {
    try {
      await this.#options.file.datasync();
    } catch {
      // Shows again at the sync before commit, which reports it.
    } finally {
      this.#writingOut = undefined;
    }
  }

  async truncate(size: number): Promise<void> {
    if (size === this.#offset && this.#state === "open") return;
    if (size !== 0) throw classified("invalid-argument", "Truncate: unsupported size: invalid argument");
    if (this.#state === "done") this.#requireOpen("truncate");
    try {
      await this.#options.file.truncate(0);
    } catch (error) {
      throw fileError(`truncate ingest ${this.#options.ref}`, error);
    }
    this.#digester = new Digester(this.#digester.algorithm);
    this.#offset = 0;
    this.#writtenOut = 0;
    this.#state = "open";
  }

  async commit(_context: RequestContext, options: CommitOptions = {}): Promise<string> {
    this.#requireOpen("commit");
    this.#state = "done";
    await using undo = new AsyncDisposableStack();
    undo.defer(this.#options.release);
    undo.defer(() => this.#closeFile());

    const { size = 0, expected = "" } = options;
    if (size > 0 && size !== this.#offset) {
      throw classified(
        "failed-precondition",
        `unexpected commit size ${this.#offset}, expected ${size}: failed precondition`,
      );
    }
    const digest = await this.#digestLike(expected);
    if (expected !== "" && digest !== expected) {
      throw classified(
        "failed-precondition",
        `unexpected commit digest ${digest}, expected ${expected}: failed precondition`,
      );
    }
    await this.#sync();
    await this.#moveIn(digest);
    await rm(this.#options.path, { recursive: true, force: true }).catch((error: unknown) => {
      this.#options.log.error("failed to remove ingest directory", {
        ref: this.#options.ref,
        path: this.#options.path,
        error,
      });
    });
    return digest;
  }

  /** The digest by the algorithm of `expected`, which may be another than the ingest was begun with. */
  async #digestLike(expected: string): Promise<string> {
    const [algorithm = ""] = expected.split(":");
    if (!isDigestAlgorithm(algorithm) || algorithm === this.#digester.algorithm) return this.#digester.digest();
    const digester = new Digester(algorithm);
    await using file = await open(join(this.#options.path, "data"), "r");
    const buffer = Buffer.allocUnsafe(REHASH_CHUNK);
    for (;;) {
      const { bytesRead } = await file.read(buffer, 0, REHASH_CHUNK, digester.size);
      if (bytesRead === 0) break;
      digester.update(buffer.subarray(0, bytesRead));
    }
    this.#digester = digester;
    return digester.digest();
  }

  async #sync(): Promise<void> {
    const { file, ref } = this.#options;
    try {
      // Read-only from now on, by the bits the umask left.
      const { mode, size } = await file.stat();
      if (size !== this.#offset) {
        throw classified(
          "failed-precondition",
          `unexpected commit size ${size}, expected ${this.#offset}: failed precondition`,
        );
      }
      const now = new Date();
      await file.chmod(mode & 0o777 & ~0o333);
      await file.utimes(now, now);
      await file.sync();
    } catch (error) {
      throw fileError(`sync ingest ${ref}`, error);
    }
  }

  async #moveIn(digest: string): Promise<void> {
    const { path, blobs, ref } = this.#options;
    const { algorithm, encoded } = parseDigest(digest);
    const folder = join(blobs, algorithm);
    const target = join(folder, encoded);
    using _held = await this.#options.digests.acquire(digest);
    const existed = (await stat(target).catch(() => undefined)) !== undefined;
    try {
      const made = await mkdir(folder, { recursive: true, mode: 0o755 });
      // Over one that is there as well: these bytes were hashed just now, and those may have rotted since.
      await rename(join(path, "data"), target);
      if (existed) await this.#options.replaced(target);
      await syncFolder(folder);
      // Folders that are new have to be found again themselves.
      if (made !== undefined) await syncFolder(blobs).then(() => syncFolder(dirname(blobs)));
    } catch (error) {
      if (isNotFound(error)) throw classified("not-found", `ingest ref "${ref}" was aborted: not found`);
      throw fileError(`commit content ${digest}`, error);
    }
    if (!existed) return;
    await rm(path, { recursive: true, force: true });
    throw classified("already-exists", `content ${digest}: already exists`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#state === "done") return;
    this.#state = "done";
    try {
      await this.#closeFile();
      await writeFile(join(this.#options.path, "updatedat"), this.#updatedAt.toISOString());
    } catch (error) {
      // Aborted meanwhile, or the disk is full: a resume reads the data's own time.
      this.#options.log.debug("ingest closed without its time", { ref: this.#options.ref, error });
    } finally {
      this.#options.release();
    }
  }

  async #closeFile(): Promise<void> {
    await this.#writingOut;
    await this.#options.file.close();
  }

  #requireOpen(doing: string): void {
    if (this.#state === "open") return;
    throw classified(
      "failed-precondition",
      this.#state === "done"
        ? `cannot ${doing} on closed writer: failed precondition`
        : `cannot ${doing} after a failed write to ${this.#options.ref}: failed precondition`,
    );
  }
}

async function syncFolder(path: string): Promise<void> {
  await using folder = await open(path, "r");
  await folder.sync();
}
