import { classified, isErrorClass, type RequestContext } from "@stevedore/base";
import { type ContentStore, type ContentWriter, type Descriptor, KeyedLock, type Pool } from "@stevedore/core";
import { Label } from "@stevedore/oci/annotations";
import { FIRST_WAIT_MS, hasBlob, pauseForWriter, unlessLocked } from "../ingest.ts";
import { refKey } from "./ref-key.ts";

/** Longest label the stores take, key and value: containerd's. */
const MAX_LABEL = 4096;

/** Tries of one blob that brought nothing new before it is given up. A try that brought bytes does not count. */
const MAX_IDLE_TRIES = 3;

/** What is fetched and from where. */
export interface BlobSource {
  readonly descriptor: Descriptor;
  /** The bytes from `offset` on. */
  readonly open: (offset: number, signal: AbortSignal) => AsyncIterable<Uint8Array>;
  /** Where it came from, for later mounts: a label and a repository. Absent: not recorded. */
  readonly origin?: { readonly label: string; readonly repository: string };
  /** Bytes that are there by now. */
  readonly onBytes?: (bytes: number) => void;
}

/** Brings blobs into the content store: each once, however many ask for it, and from where an earlier try ended. */
export class BlobFetcher {
  readonly #content: ContentStore;
  readonly #pool: Pool;
  /** By namespace and digest; who waits finds the blob, or takes over. */
  readonly #locks = new KeyedLock();

  constructor(options: { readonly content: ContentStore; readonly pool: Pool }) {
    this.#content = options.content;
    this.#pool = options.pool;
  }

  /**
   * @returns whether bytes were fetched, or the blob was there.
   * @throws failed-precondition for bytes that are not the descriptor's, and what the source throws. What was fetched stays
   *   for the next try, unless it was wrong.
   */
  async fetch(context: RequestContext, source: BlobSource): Promise<"fetched" | "exists"> {
    const { digest } = source.descriptor;
    using _held = await this.#locks.acquire(`${context.namespace ?? ""} ${digest}`, context.signal);
    const result = await this.#ingest(context, source);
    if (result === "exists" && source.origin !== undefined) {
      await recordOrigin(this.#content, context, { digest, ...source.origin });
    }
    return result;
  }

  /** A place is taken before anything is opened: thousands of blobs may wait for one. */
  async #ingest(context: RequestContext, source: BlobSource): Promise<"fetched" | "exists"> {
    const { digest, size } = source.descriptor;
    // What is there needs no place: only the lease is told of it.
    const cost = (await hasBlob(this.#content, context, digest)) ? 0 : size;
    for (let wait = FIRST_WAIT_MS; ; wait = await pauseForWriter(wait, context.signal)) {
      const result =
        cost === 0
          ? await this.#attempt(context, source)
          : await this.#pool.run(async () => this.#attempt(context, source), context.signal, cost);
      if (result !== "locked") return result;
    }
  }

  async #attempt(context: RequestContext, source: BlobSource): Promise<"fetched" | "exists" | "locked"> {
    const { descriptor, origin } = source;
    const { digest, size } = descriptor;
    const ref = refKey(descriptor);
    const labels = origin === undefined ? {} : { [origin.label]: origin.repository };
    try {
      await using writer = await unlessLocked(async () =>
        this.#content.writer(context, { ref, total: size, expected: digest }),
      );
      if (writer === undefined) return "locked";
      // Another namespace has the blob, or the last try got all of it and no further.
      const whole = writer.status().offset === size && writer.digest() === digest;
      if (!whole) await this.#fill(context, source, writer);
      await writer.commit(context, { size, expected: digest, labels });
      return whole ? "exists" : "fetched";
    } catch (error) {
      if (isErrorClass(error, "already-exists")) return "exists";
      if (!isErrorClass(error, "failed-precondition")) throw error;
      // Bytes that are wrong must not be gone on with.
      await this.#content.abort(context, ref).catch(() => undefined);
      throw error;
    }
  }

  async #fill(context: RequestContext, source: BlobSource, writer: ContentWriter): Promise<void> {
    const { digest, size } = source.descriptor;
    if (writer.status().offset >= size) await writer.truncate(0);
    for (let idle = 0; ; ) {
      const from = writer.status().offset;
      const failure = await this.#fillFrom(context, source, writer);
      const { offset } = writer.status();
      if (offset === size) return;
      if (offset > from) idle = 0;
      else if (failure !== undefined && isErrorClass(failure, "out-of-range") && from > 0) await writer.truncate(0);
      if (++idle >= MAX_IDLE_TRIES || (failure !== undefined && !mayPass(failure))) {
        throw (
          failure ?? classified("unavailable", `fetch ${digest}: the bytes ended at ${offset} of ${size}: unavailable`)
        );
      }
    }
  }

  /** Writes what the source gives. @returns how the source failed; undefined when its bytes just ended. */
  async #fillFrom(context: RequestContext, source: BlobSource, writer: ContentWriter): Promise<Error | undefined> {
    const { digest, size } = source.descriptor;
    try {
      for await (const bytes of source.open(writer.status().offset, context.signal)) {
        context.signal.throwIfAborted();
        if (writer.status().offset + bytes.byteLength > size) {
          throw classified("failed-precondition", `fetch ${digest}: more than its ${size} bytes: failed precondition`);
        }
        await writer.write(bytes);
        source.onBytes?.(writer.status().offset);
      }
      return undefined;
    } catch (error) {
      context.signal.throwIfAborted();
      return error instanceof Error ? error : new Error(String(error));
    }
  }
}

/** Whether the same request may do better. */
function mayPass(failure: Error): boolean {
  return isErrorClass(failure, "unavailable") || isErrorClass(failure, "out-of-range");
}

/** Adds a repository to those a blob is known to come from. One that does not fit a label is left out. */
async function recordOrigin(
  content: ContentStore,
  context: RequestContext,
  of: { readonly digest: string; readonly label: string; readonly repository: string },
): Promise<void> {
  const { digest, label, repository } = of;
  const { labels } = await content.info(context, digest);
  const known = (labels[label] ?? "").split(",").filter((each) => each !== "");
  if (known.includes(repository)) return;
  const value = [...known, repository].sort().join(",");
  if (label.length + value.length > MAX_LABEL) return;
  await content.update(context, { digest, labels: { [label]: value } }, [`labels.${label}`]);
}

/** The label of blobs that come from a host. */
export function originLabel(host: string): string {
  return `${Label.distributionSource}${host}`;
}
