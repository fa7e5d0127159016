import type { MessageInitShape } from "@bufbuild/protobuf";
import { classified, concatBytes, isErrorClass, type RequestContext } from "@stevedore/base";
import { contentInfoFromProto, ingestStatusFromProto } from "@stevedore/convert/content";
import { dateFromProto } from "@stevedore/convert/timestamps";
import type {
  CommitOptions,
  ContentReader,
  ContentStore,
  ContentWriter,
  IngestStatus,
  WriterOptions,
} from "@stevedore/core";
import type {
  WriteContentRequestSchema,
  WriteContentResponse,
} from "@stevedore/wire/gen/light/containerd/services/content/v1/content_pb";
import type { Transport } from "@stevedore/wire/rpc/index";
import { callOptions, lazyClient, present } from "./call.ts";
import { RequestQueue } from "./request-queue.ts";

/** Bytes of content in one message; daemons accept 16 MiB, smaller messages share a connection better. */
const WRITE_CHUNK = 1024 * 1024;

type WriteInit = MessageInitShape<typeof WriteContentRequestSchema>;

/** WriteAction of the protocol. */
const STAT = 0;
const WRITE = 1;
const COMMIT = 2;

/** The content store of a daemon. */
export function contentProxy(transport: Transport): ContentStore {
  const content = lazyClient(
    transport,
    async () => (await import("@stevedore/wire/gen/light/containerd/services/content/v1/content_pb")).Content,
  );
  return {
    info: async (context, digest) => {
      const { info } = await (await content()).info({ digest }, callOptions(context));
      return contentInfoFromProto(present(info, "content info"));
    },
    update: async (context, { digest, labels }, fields) => {
      const { info } = await (await content()).update(
        {
          info: { digest, labels: { ...labels } },
          ...(fields.length === 0 ? {} : { updateMask: { paths: [...fields] } }),
        },
        callOptions(context),
      );
      return contentInfoFromProto(present(info, "content info"));
    },
    list: async function* (context, filters) {
      const client = await content();
      for await (const { info } of client.list({ filters: [...filters] }, callOptions(context))) {
        for (const each of info) yield contentInfoFromProto(each);
      }
    },
    delete: async (context, digest) => {
      await (await content()).delete({ digest }, callOptions(context));
    },
    open: async (context, digest): Promise<ContentReader> => {
      const client = await content();
      const { info } = await client.info({ digest }, callOptions(context));
      const size = Number(present(info, "content info").size);
      return {
        size,
        readAt: async (offset, length) => {
          if (offset < 0)
            throw classified("out-of-range", `read content ${digest}: offset ${offset} is negative: out of range`);
          const wanted = Math.min(length, size - offset);
          if (wanted <= 0) return new Uint8Array();
          const bytes = new Uint8Array(wanted);
          let got = 0;
          const parts = client.read({ digest, offset: BigInt(offset), size: BigInt(wanted) }, callOptions(context));
          for await (const { data } of parts) {
            bytes.set(data.subarray(0, wanted - got), got);
            got += Math.min(data.byteLength, wanted - got);
          }
          return bytes.subarray(0, got);
        },
        [Symbol.asyncDispose]: async () => undefined,
      };
    },
    readWhole: async (context, digest, limit) => {
      const parts: Uint8Array[] = [];
      let size = 0;
      for await (const { data } of (await content()).read({ digest }, callOptions(context))) {
        size += data.byteLength;
        if (size > limit) return undefined;
        parts.push(data);
      }
      const [first] = parts;
      return first !== undefined && parts.length === 1 ? first : concatBytes(parts);
    },
    writer: async (context, options) => {
      const client = await content();
      return openWriter((requests) => client.write(requests, callOptions(context)), options);
    },
    status: async (context, ref) => {
      const { status } = await (await content()).status({ ref }, callOptions(context));
      return ingestStatusFromProto(present(status, "ingest status"));
    },
    listStatuses: async (context, filters) => {
      const { statuses } = await (await content()).listStatuses({ filters: [...filters] }, callOptions(context));
      return statuses.map(ingestStatusFromProto);
    },
    abort: async (context, ref) => {
      await (await content()).abort({ ref }, callOptions(context));
    },
  };
}

type WriteCall = (requests: AsyncIterable<WriteInit>) => AsyncIterable<WriteContentResponse>;

async function openWriter(call: WriteCall, { ref, total = 0, expected = "" }: WriterOptions): Promise<ContentWriter> {
  const requests = new RequestQueue<WriteInit>();
  const answers = call(requests)[Symbol.asyncIterator]();
  const ask = async (request: WriteInit): Promise<WriteContentResponse> => {
    requests.push(request);
    const next = await answers.next();
    if (next.done === true) throw classified("unavailable", `write content ${ref}: the daemon ended the call`);
    return next.value;
  };
  const close = async (): Promise<void> => {
    requests.end();
    await answers.return?.();
  };
  let answer: WriteContentResponse;
  try {
    answer = await ask({ action: STAT, ref, total: BigInt(total), expected });
  } catch (error) {
    await close().catch(() => undefined);
    throw error;
  }
  const startedAt = dateFromProto(answer.startedAt);
  let offset = Number(answer.offset);
  let digest = answer.digest;
  let done = false;
  const stillOpen = (): void => {
    if (done) throw classified("failed-precondition", `write ingest ${ref}: the writer is closed: failed precondition`);
  };
  const status = (): IngestStatus => ({ ref, offset, total, expected, startedAt, updatedAt: new Date() });
  const write = async (bytes: Uint8Array): Promise<void> => {
    stillOpen();
    for (let at = 0; at < bytes.byteLength; at += WRITE_CHUNK) {
      const data = bytes.subarray(at, at + WRITE_CHUNK);
      const { offset: now, digest: sum } = await ask({ action: WRITE, offset: BigInt(offset), data });
      offset = Number(now);
      digest = sum === "" ? digest : sum;
    }
  };
  const commit = async (_context: RequestContext, options: CommitOptions = {}): Promise<string> => {
    stillOpen();
    done = true;
    try {
      const { digest: committed } = await ask({
        action: COMMIT,
        total: BigInt(options.size ?? 0),
        offset: BigInt(offset),
        expected: options.expected ?? "",
        labels: { ...options.labels },
      });
      return committed;
    } finally {
      await close().catch(() => undefined);
    }
  };
  return {
    write,
    commit,
    status,
    digest: () => digest,
    truncate: async (size) => {
      if (size === offset) return;
      if (size !== 0)
        throw classified("invalid-argument", `truncate ingest ${ref}: to ${size} of ${offset} bytes: invalid argument`);
      // A write at offset 0 restarts the ingest on the daemon.
      offset = 0;
    },
    [Symbol.asyncDispose]: async () => {
      if (done) return;
      try {
        await close();
      } catch (error) {
        if (!isErrorClass(error, "canceled") && !isErrorClass(error, "unavailable")) throw error;
      }
    },
  };
}
