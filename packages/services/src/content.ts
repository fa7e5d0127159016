import type { MessageInitShape } from "@bufbuild/protobuf";
import { classified, isErrorClass, type RequestContext, withContext } from "@stevedore/base";
import { contentInfoToProto, ingestStatusToProto } from "@stevedore/convert/content";
import { timestampToProto } from "@stevedore/convert/timestamps";
import type { ContentStore, ContentWriter, EventExchange } from "@stevedore/core";
import { goQuote } from "@stevedore/core/go-quote";
import { ContentCreateSchema, ContentDeleteSchema } from "@stevedore/wire/gen/containerd/events/content_pb";
import {
  type Content,
  WriteAction,
  type WriteContentRequest,
  type WriteContentResponseSchema,
} from "@stevedore/wire/gen/containerd/services/content/v1/content_pb";
import type { ServiceImpl } from "@stevedore/wire/rpc/index";
import { announcing, inChunks, pathsOf, requestContext, required } from "./request.ts";

/** Bytes of content in one message of a read: containerd's buffer. */
const READ_CHUNK = 1024 * 1024;

type WriteAnswer = MessageInitShape<typeof WriteContentResponseSchema>;

/** The content service. */
export function contentService(of: {
  readonly content: ContentStore;
  readonly events: EventExchange;
}): ServiceImpl<typeof Content> {
  const { content, events } = of;
  return {
    info: async ({ digest }, call) => ({
      info: contentInfoToProto(await content.info(requestContext(call), validDigest(digest))),
    }),
    update: async ({ info, updateMask }, call) => {
      const { digest, labels } = required(info, "content info");
      const changed = await content.update(
        requestContext(call),
        { digest: validDigest(digest), labels },
        pathsOf(updateMask),
      );
      return { info: contentInfoToProto(changed) };
    },
    list: async function* ({ filters }, call) {
      for await (const chunk of inChunks(content.list(requestContext(call), filters))) {
        yield { info: chunk.map(contentInfoToProto) };
      }
    },
    delete: async ({ digest }, call) => {
      await announcing(
        {
          events,
          context: requestContext(call),
          topic: "/content/delete",
          schema: ContentDeleteSchema,
          known: { digest },
        },
        (context) => content.delete(context, checkDigest(digest)),
      );
      return {};
    },
    read: async function* ({ digest, offset, size }, call) {
      const context = requestContext(call);
      await using reader = await content.open(context, checkDigest(digest));
      const from = Math.max(Number(offset), 0);
      if (from > reader.size) {
        throw classified("out-of-range", `read past object length ${reader.size} bytes: out of range`);
      }
      const end = size <= 0n ? reader.size : Math.min(from + Number(size), reader.size);
      for (let at = from; at < end; ) {
        const data = await reader.readAt(at, Math.min(READ_CHUNK, end - at));
        if (data.byteLength === 0) {
          throw classified("data-loss", `read content ${digest}: the blob ended at ${at} of ${reader.size} bytes`);
        }
        // The peer counts from where the read began, not from the start of the blob.
        yield { offset: BigInt(at - from), data };
        at += data.byteLength;
      }
    },
    status: async ({ ref }, call) => {
      try {
        return { status: ingestStatusToProto(await content.status(requestContext(call), ref)) };
      } catch (error) {
        throw withContext(`could not get status for ref ${goQuote(ref)}`, error);
      }
    },
    listStatuses: async ({ filters }, call) => ({
      statuses: (await content.listStatuses(requestContext(call), filters)).map(ingestStatusToProto),
    }),
    write: (requests, call) => writeBlob({ content, events }, requests, requestContext(call)),
    abort: async ({ ref }, call) => {
      await content.abort(requestContext(call), ref);
      return {};
    },
  };
}

/** @throws invalid-argument, in the words of Go's digest package */
function checkDigest(digest: string): string {
  const match = /^([a-z0-9]+(?:[.+_-][a-z0-9]+)*):([A-Za-z0-9=_-]+)$/.exec(digest);
  if (match === null) throw classified("invalid-argument", "invalid checksum digest format: invalid argument");
  const length = HEX_LENGTHS[match[1] ?? ""];
  if (length === undefined) throw classified("invalid-argument", "unsupported digest algorithm: invalid argument");
  if (match[2]?.length !== length) {
    throw classified("invalid-argument", "invalid checksum digest length: invalid argument");
  }
  if (!/^[0-9a-f]+$/.test(match[2])) {
    throw classified("invalid-argument", "invalid checksum digest format: invalid argument");
  }
  return digest;
}

/** @throws invalid-argument, in the words the peer has where a digest names the blob of the whole request */
function validDigest(digest: string): string {
  try {
    return checkDigest(digest);
  } catch {
    throw classified("invalid-argument", `${goQuote(digest)} failed validation: invalid argument`);
  }
}

const HEX_LENGTHS: Readonly<Record<string, number>> = { sha256: 64, sha384: 96, sha512: 128 };

/**
 * One write stream: the first message names the ref and opens the ingest; each message is answered; a commit or the end
 * of the client's messages ends it. An offset that is not the current one is refused, except that 0 starts over.
 */
async function* writeBlob(
  of: { readonly content: ContentStore; readonly events: EventExchange },
  requests: AsyncIterable<WriteContentRequest>,
  context: RequestContext,
): AsyncGenerator<WriteAnswer> {
  const iterator = requests[Symbol.asyncIterator]();
  const first = await iterator.next();
  if (first.done === true) throw classified("unknown", "EOF");
  const { ref } = first.value;
  if (ref === "") throw classified("invalid-argument", "first message must have a reference: invalid argument");
  let { total, expected } = first.value;
  await using writer = await of.content.writer(context, { ref, total: Number(total), expected });
  for (let next: IteratorResult<WriteContentRequest> = first; next.done !== true; next = await iterator.next()) {
    const request = next.value;
    if (request.total > 0n) total = request.total;
    if (request.expected !== "" && request.expected !== expected) {
      expected = request.expected;
      if (await exists(of.content, context, expected)) {
        await writer[Symbol.asyncDispose]();
        await of.content.abort(context, ref);
        throw classified("already-exists", `blob with expected digest ${expected} exists: already exists`);
      }
    }
    const answer = await answerWrite({ ...of, writer, context, total, expected }, request);
    yield answer;
    if (request.action === WriteAction.COMMIT) return;
  }
}

async function exists(content: ContentStore, context: RequestContext, digest: string): Promise<boolean> {
  try {
    await content.info(context, digest);
    return true;
  } catch (error) {
    if (isErrorClass(error, "not-found")) return false;
    throw error;
  }
}

interface WriteState {
  readonly events: EventExchange;
  readonly writer: ContentWriter;
  readonly context: RequestContext;
  readonly total: bigint;
  readonly expected: string;
}

async function answerWrite(state: WriteState, request: WriteContentRequest): Promise<WriteAnswer> {
  const { writer, context, total, expected } = state;
  const before = writer.status();
  const base = { action: request.action, total, startedAt: timestampToProto(before.startedAt) };
  if (request.action === WriteAction.STAT) {
    return {
      ...base,
      digest: writer.digest(),
      updatedAt: timestampToProto(before.updatedAt),
      offset: BigInt(before.offset),
    };
  }
  if (request.action !== WriteAction.WRITE && request.action !== WriteAction.COMMIT) {
    throw classified("invalid-argument", `unknown write action ${request.action}: invalid argument`);
  }
  if (request.offset > 0n && Number(request.offset) !== before.offset) {
    throw classified(
      "out-of-range",
      `write @${request.offset} must occur at current offset ${before.offset}: out of range`,
    );
  }
  if (request.offset === 0n && before.offset > 0) await writer.truncate(0);
  if (request.data.byteLength > 0) await writer.write(request.data);
  const { offset } = writer.status();
  if (request.action === WriteAction.WRITE) {
    return { ...base, digest: writer.digest(), updatedAt: timestampToProto(new Date()), offset: BigInt(offset) };
  }
  const size = BigInt(offset);
  const digest = await announcing(
    {
      events: state.events,
      context,
      topic: "/content/create",
      schema: ContentCreateSchema,
      known: { size },
      fields: { [ContentCreateSchema.field.digest.number]: "digest" },
    },
    (announced) =>
      writer.commit(announced, {
        ...(total > 0n ? { size: Number(total) } : {}),
        ...(expected === "" ? {} : { expected }),
        labels: request.labels,
      }),
    (made) => ({ digest: made, size }),
  );
  return { ...base, digest, updatedAt: timestampToProto(new Date()), offset: BigInt(offset) };
}
