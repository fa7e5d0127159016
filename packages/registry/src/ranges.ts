import { classified } from "@stevedore/base";
import { type Descriptor, parseDigest } from "@stevedore/oci";
import { BlobSource, kindOf, type Opened } from "./blob-source.ts";
import { type FetchOptions, pullHosts, resumed } from "./fetch.ts";
import { endpointOf } from "./hosts/types.ts";
import { reasonOf } from "./http/reader.ts";
import type { ImageName } from "./image-name.ts";
import type { Session } from "./session.ts";

/** How a large blob is fetched over several connections. */
export interface RangesOptions extends Omit<FetchOptions, "verify"> {
  /** Connections at a time. Default 4. */
  readonly parallel?: number;
  /** Bytes of a range, rounded to nothing. Default 8 MiB. */
  readonly chunkSize?: number;
}

/** Bytes with their place in the blob. */
export interface PositionedChunk {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** A blob that comes in ranges. Read one of the two, once. */
export interface FetchedRanges {
  readonly size: number;
  readonly endpoint: string;
  /**
   * Chunks as they come: each byte once, those of one range in order, ranges in any order. For writers that can write
   * anywhere. Holds little memory whatever the consumer's pace.
   */
  readonly chunks: AsyncIterable<PositionedChunk>;
  /** The same bytes in order. Holds at most `parallel` ranges in memory. */
  readonly ordered: AsyncIterable<Uint8Array>;
  /** Whether the server keeps to ranges; if not, all comes over one connection. */
  readonly ranged: boolean;
  /** Ends it, read or unread. */
  cancel(): Promise<void>;
}

/** Eight connections gain little over four where it was measured, and registries limit connections. */
const DEFAULT_PARALLEL = 4;
const MAX_PARALLEL = 32;
/** Below this, another request costs more than it brings. */
const MIN_CHUNK = 256 << 10;
const DEFAULT_CHUNK = 8 << 20;
const NEVER = new AbortController().signal;

/**
 * Opens a blob in ranges. The first range tells whether the server keeps to them: if not, its body is the whole blob
 * and all is read from it.
 *
 * @throws RegistryError; invalid-argument for a descriptor without size
 */
export async function fetchRanges(
  session: Session,
  name: ImageName,
  request: { readonly descriptor: Descriptor; readonly options: RangesOptions },
): Promise<FetchedRanges> {
  const { descriptor, options } = request;
  parseDigest(descriptor.digest);
  const kind = kindOf(descriptor.mediaType);
  const source = new BlobSource({
    session,
    name,
    descriptor,
    kind,
    hosts: await pullHosts(session, name, options.exclude),
  });
  const offset = options.offset ?? 0;
  if (descriptor.size < 0) throw classified("invalid-argument", `${source.doing}: ranges need its size`);
  if (offset < 0 || offset > source.size) {
    throw classified("out-of-range", `${source.doing}: offset ${offset} is not within its ${descriptor.size} bytes`);
  }
  const plan = new Plan({
    from: offset,
    size: source.size,
    chunk: Math.max(MIN_CHUNK, options.chunkSize ?? DEFAULT_CHUNK),
  });
  const stop = new AbortController();
  const signal = AbortSignal.any([options.signal ?? NEVER, stop.signal]);
  const first = plan.take();
  const opened = first === undefined ? undefined : await source.open(first.from, first.end, signal);
  if (first !== undefined && opened?.ranged === false) plan.giveRestTo(first);
  const work: Work = {
    session,
    source,
    plan,
    signal,
    stop,
    parallel: Math.min(MAX_PARALLEL, Math.max(1, options.parallel ?? DEFAULT_PARALLEL)),
    first: first === undefined || opened === undefined ? undefined : { segment: first, opened },
  };
  return {
    size: descriptor.size,
    endpoint: opened === undefined ? "" : endpointOf(opened.host),
    ranged: opened?.ranged ?? true,
    chunks: positioned(work),
    ordered: inOrder(work),
    cancel: async () => {
      stop.abort(ENDED);
      await opened?.discard();
    },
  };
}

interface Segment {
  readonly from: number;
  end: number;
}

/** Hands out ranges in order. */
class Plan {
  readonly #size: number;
  readonly #chunk: number;
  #next: number;

  constructor(options: { readonly from: number; readonly size: number; readonly chunk: number }) {
    this.#next = options.from;
    this.#size = options.size;
    this.#chunk = options.chunk;
  }

  take(): Segment | undefined {
    if (this.#next >= this.#size) return undefined;
    const from = this.#next;
    this.#next = Math.min(this.#size, from + this.#chunk);
    return { from, end: this.#next };
  }

  /** A body that does not keep to its range covers all behind it as well, as far as nobody has taken it. */
  giveRestTo(segment: Segment): void {
    if (segment.end !== this.#next) return;
    segment.end = this.#size;
    this.#next = this.#size;
  }
}

interface Work {
  readonly session: Session;
  readonly source: BlobSource;
  readonly plan: Plan;
  readonly signal: AbortSignal;
  readonly stop: AbortController;
  readonly parallel: number;
  readonly first: { readonly segment: Segment; readonly opened: Opened } | undefined;
}

function readSegment(work: Work, segment: Segment, first?: Opened): AsyncGenerator<Uint8Array, void, undefined> {
  const { session, source, signal, plan } = work;
  return resumed({
    session,
    source,
    from: segment.from,
    end: () => segment.end,
    first,
    signal,
    onOpened: (opened) => {
      if (!opened.ranged) plan.giveRestTo(segment);
    },
  });
}

/** Bytes that wait between the connections and a consumer of positioned chunks. */
const POSITIONED_WATER = 2 << 20;

async function* positioned(work: Work): AsyncGenerator<PositionedChunk, void, undefined> {
  const queue = new ByteQueue<PositionedChunk>(POSITIONED_WATER);
  const workers = start(work, async (segment, first) => {
    let offset = segment.from;
    for await (const bytes of readSegment(work, segment, first)) {
      await queue.put({ offset, bytes }, bytes.byteLength);
      offset += bytes.byteLength;
    }
  });
  yield* drained(work, queue, workers);
}

async function* inOrder(work: Work): AsyncGenerator<Uint8Array, void, undefined> {
  // One queue for each segment that is being read; the consumer empties them in order.
  const line = new ByteQueue<ByteQueue<Uint8Array>>(Number.POSITIVE_INFINITY);
  const workers = start(work, async (segment, first) => {
    const queue = new ByteQueue<Uint8Array>(segment.end - segment.from);
    const forget = failOnAbort(queue, work.signal);
    await line.put(queue, 0);
    try {
      for await (const bytes of readSegment(work, segment, first)) await queue.put(bytes, bytes.byteLength);
      queue.end();
      // The next range is taken when this one has been read, so that no more than `parallel` ranges wait.
      await queue.emptied();
    } catch (error) {
      queue.fail(error);
      throw error;
    } finally {
      forget();
    }
  });
  for await (const queue of drained(work, line, workers)) yield* queue.all();
}

/** Makes a queue fail when all ends, so that nobody waits for a reader who is gone. @returns how to stop that */
function failOnAbort<T>(queue: ByteQueue<T>, signal: AbortSignal): () => void {
  const onAbort = (): void => queue.fail(reasonOf(signal));
  if (signal.aborted) onAbort();
  signal.addEventListener("abort", onAbort, { once: true });
  return () => signal.removeEventListener("abort", onAbort);
}

/** What workers put into a queue, until they end. Leaving it ends them. */
async function* drained<T>(
  work: Work,
  queue: ByteQueue<T>,
  workers: Promise<void>,
): AsyncGenerator<T, void, undefined> {
  const forget = failOnAbort(queue, work.signal);
  const watch = async (): Promise<void> => {
    try {
      await workers;
      queue.end();
    } catch (error) {
      queue.fail(error);
    }
  };
  const watching = watch();
  try {
    yield* queue.all();
  } finally {
    work.stop.abort(ENDED);
    await watching;
    forget();
  }
}

const ENDED = new DOMException("the fetch is over", "AbortError");

async function start(work: Work, read: (segment: Segment, first?: Opened) => Promise<void>): Promise<void> {
  const worker = async (begin: Work["first"]): Promise<void> => {
    if (begin !== undefined) await read(begin.segment, begin.opened);
    for (let segment = work.plan.take(); segment !== undefined; segment = work.plan.take()) await read(segment);
  };
  let failure: { readonly error: unknown } | undefined;
  const guarded = async (begin: Work["first"]): Promise<void> => {
    try {
      await worker(begin);
    } catch (error) {
      // What one connection met ends them all; the others' failures are only its echo.
      failure ??= { error };
      work.stop.abort(error);
    }
  };
  await Promise.all(Array.from({ length: work.parallel }, async (_, i) => guarded(i === 0 ? work.first : undefined)));
  if (failure !== undefined) throw asError(failure.error);
}

/** A queue between one consumer and several producers, bounded by bytes. */
class ByteQueue<T> {
  readonly #water: number;
  readonly #items: { readonly item: T; readonly bytes: number }[] = [];
  readonly #producers: (() => void)[] = [];
  readonly #emptied = Promise.withResolvers<void>();
  #bytes = 0;
  #ended = false;
  #failure: { readonly error: unknown } | undefined;
  #wake: (() => void) | undefined;

  constructor(water: number) {
    this.#water = water;
  }

  async put(item: T, bytes: number): Promise<void> {
    while (this.#bytes > 0 && this.#bytes + bytes > this.#water && this.#failure === undefined) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#producers.push(resolve);
      await promise;
    }
    if (this.#failure !== undefined) throw asError(this.#failure.error);
    this.#items.push({ item, bytes });
    this.#bytes += bytes;
    this.#wake?.();
  }

  end(): void {
    this.#ended = true;
    if (this.#items.length === 0) this.#emptied.resolve();
    this.#wake?.();
  }

  fail(error: unknown): void {
    this.#failure ??= { error };
    this.#emptied.resolve();
    this.#wake?.();
    for (const producer of this.#producers.splice(0)) producer();
  }

  /** Resolves when all was taken, or it failed. */
  async emptied(): Promise<void> {
    return this.#emptied.promise;
  }

  async *all(): AsyncGenerator<T, void, undefined> {
    for (;;) {
      const next = this.#items.shift();
      if (next !== undefined) {
        this.#bytes -= next.bytes;
        this.#producers.shift()?.();
        if (this.#ended && this.#items.length === 0) this.#emptied.resolve();
        yield next.item;
      } else if (this.#failure !== undefined) {
        throw asError(this.#failure.error);
      } else if (this.#ended) {
        return;
      } else {
        const { promise, resolve } = Promise.withResolvers<void>();
        this.#wake = resolve;
        await promise;
        this.#wake = undefined;
      }
    }
  }
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : reasonOf(AbortSignal.abort(error));
}
