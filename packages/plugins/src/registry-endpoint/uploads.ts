/**
 * Uploads to the endpoint: an upload is an ingest of the content store, held by a lease of its own. Nothing of it is kept in memory, so one
 * that was begun under an earlier daemon goes on.
 */
import { errorClassOf, isErrorClass, messageOf, type RequestContext } from "@stevedore/base";
import type { ContentStore, ContentWriter, LeaseManager } from "@stevedore/core";
import { Label } from "@stevedore/oci/annotations";
import { parseDigest } from "@stevedore/oci/digest";
import { RegistryError } from "./answers.ts";

export interface UploadStores {
  readonly content: Pick<ContentStore, "writer" | "status" | "abort">;
  readonly leases: Pick<LeaseManager, "create" | "delete">;
}

/** How long an upload, and a blob that no manifest names yet, is kept: a push of many layers over a slow line. */
export const UPLOAD_LIFE_MS = 6 * 3_600_000;

/** A stretch of bytes that a client says it sends. */
export interface UploadRange {
  readonly start: number;
}

export type Body = AsyncIterable<Uint8Array> | undefined;

export class Uploads {
  readonly #stores: UploadStores;

  constructor(stores: UploadStores) {
    this.#stores = stores;
  }

  /** Begins an upload. @returns its id */
  async begin(context: RequestContext): Promise<string> {
    const id = crypto.randomUUID();
    await this.#stores.leases.create(context, { id: leaseOf(id), labels: expiry() });
    try {
      await using _writer = await this.#stores.content.writer(within(context, id), { ref: refOf(id) });
    } catch (error) {
      await this.#stores.leases.delete(context, leaseOf(id)).catch(() => undefined);
      throw error;
    }
    return id;
  }

  /** Bytes received so far. @throws RegistryError BLOB_UPLOAD_UNKNOWN */
  async offset(context: RequestContext, id: string): Promise<number> {
    try {
      return (await this.#stores.content.status(context, refOf(id))).offset;
    } catch (error) {
      throw isErrorClass(error, "not-found") ? unknownUpload(id) : error;
    }
  }

  /**
   * Appends a body. What arrived of one that breaks off stays.
   * @returns bytes received in all
   * @throws RegistryError BLOB_UPLOAD_UNKNOWN; RANGE_INVALID, with the range that is there, for a gap or an overlap
   */
  async append(context: RequestContext, id: string, body: Body, range?: UploadRange): Promise<number> {
    await this.offset(context, id);
    await using writer = await this.#writer(context, id);
    // Only now nobody else writes on.
    const { offset } = writer.status();
    if (range !== undefined && range.start !== offset) {
      throw new RegistryError("RANGE_INVALID", `upload has ${offset} bytes, the body begins at ${range.start}`, {
        headers: { range: rangeText(offset) },
      });
    }
    await take(writer, body);
    return writer.status().offset;
  }

  /**
   * Appends the last body, if there is one, and makes the blob.
   * @throws RegistryError DIGEST_INVALID, the upload is gone then; BLOB_UPLOAD_UNKNOWN
   */
  async finish(context: RequestContext, id: string, digest: string, body: Body): Promise<void> {
    await this.offset(context, id);
    const { algorithm } = parseDigest(digest);
    await using writer = await this.#writer(context, id, algorithm);
    await take(writer, body);
    try {
      await writer.commit(within(context, id), { expected: digest });
    } catch (error) {
      if (isErrorClass(error, "already-exists")) return;
      if (errorClassOf(error) !== "failed-precondition") throw error;
      await this.cancel(context, id);
      throw new RegistryError("DIGEST_INVALID", messageOf(error), { detail: { digest } });
    }
  }

  /** Ends an upload without a blob. @throws RegistryError BLOB_UPLOAD_UNKNOWN */
  async cancel(context: RequestContext, id: string): Promise<void> {
    try {
      await this.#stores.content.abort(context, refOf(id));
    } catch (error) {
      throw isErrorClass(error, "not-found") ? unknownUpload(id) : error;
    } finally {
      await this.#stores.leases.delete(context, leaseOf(id)).catch(() => undefined);
    }
  }

  async #writer(context: RequestContext, id: string, algorithm?: string): Promise<ContentWriter> {
    try {
      return await this.#stores.content.writer(within(context, id), {
        ref: refOf(id),
        ...(algorithm === undefined ? {} : { algorithm }),
      });
    } catch (error) {
      if (!isErrorClass(error, "unavailable")) throw error;
      throw new RegistryError("UNAVAILABLE", `upload ${id} takes another body just now`);
    }
  }
}

/** How the protocol shows what an upload has: the last byte's number, and 0-0 for nothing. */
export function rangeText(offset: number): string {
  return `0-${Math.max(0, offset - 1)}`;
}

async function take(writer: ContentWriter, body: Body): Promise<void> {
  if (body === undefined) return;
  for await (const piece of body) await writer.write(piece);
}

function refOf(id: string): string {
  return `registry-upload-${id}`;
}

function leaseOf(id: string): string {
  return `registry-upload-${id}`;
}

function within(context: RequestContext, id: string): RequestContext {
  return { ...context, lease: leaseOf(id) };
}

function expiry(): Readonly<Record<string, string>> {
  return { [Label.gcExpire]: new Date(Date.now() + UPLOAD_LIFE_MS).toISOString() };
}

function unknownUpload(id: string): RegistryError {
  return new RegistryError("BLOB_UPLOAD_UNKNOWN", undefined, { detail: { id } });
}
