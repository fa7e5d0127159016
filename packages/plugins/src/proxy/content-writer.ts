import type { MessageInitShape } from "@bufbuild/protobuf";
import { classified } from "@stevedore/base";
import { dateFromProto } from "@stevedore/convert/timestamps";
import type { CommitOptions, ContentWriter, WriterOptions } from "@stevedore/core";
import {
  WriteAction,
  type WriteContentRequestSchema,
  type WriteContentResponse,
} from "@stevedore/wire/gen/containerd/services/content/v1/content_pb";

type Request = MessageInitShape<typeof WriteContentRequestSchema>;

/** Bytes in one message: well below the 16 MiB both sides take, above what a round trip costs. */
const CHUNK = 1024 * 1024;

/**
 * Opens an ingest in another process. One request is under way at a time, so the stream of requests holds at most one.
 */
export async function openProxyWriter(
  call: (requests: AsyncIterable<Request>) => AsyncIterable<WriteContentResponse>,
  options: WriterOptions,
): Promise<ContentWriter> {
  const { ref, total = 0, expected = "" } = options;
  const stream = new Exchange(call);
  const opened = await stream.ask({ action: WriteAction.STAT, ref, total: BigInt(total), expected });
  const startedAt = dateFromProto(opened.startedAt);
  let updatedAt = dateFromProto(opened.updatedAt);
  let offset = Number(opened.offset);
  let digest = opened.digest;

  const note = (answer: WriteContentResponse): void => {
    offset = Number(answer.offset);
    if (answer.digest !== "") digest = answer.digest;
    updatedAt = dateFromProto(answer.updatedAt);
  };

  return {
    write: async (bytes) => {
      for (let at = 0; at < bytes.byteLength; at += CHUNK) {
        const data = bytes.subarray(at, at + CHUNK);
        note(await stream.ask({ action: WriteAction.WRITE, ref, offset: BigInt(offset), data }));
      }
    },
    commit: async (_context, { size = 0, expected: wanted = "", labels = {} }: CommitOptions = {}) => {
      try {
        const answer = await stream.ask({
          action: WriteAction.COMMIT,
          ref,
          offset: BigInt(offset),
          total: BigInt(size),
          expected: wanted,
          labels: { ...labels },
        });
        note(answer);
        return answer.digest;
      } finally {
        await stream.close();
      }
    },
    status: () => ({ ref, offset, total, expected, startedAt, updatedAt }),
    digest: () => digest,
    truncate: async (size) => {
      if (size === offset) return;
      if (size !== 0) {
        throw classified("invalid-argument", `truncate ingest "${ref}" to ${size} of ${offset}: invalid argument`);
      }
      // The next write at offset 0 makes the other side start over.
      offset = 0;
      digest = "";
    },
    [Symbol.asyncDispose]: async () => stream.close(),
  };
}

/** A bidirectional stream used as question and answer. */
class Exchange {
  readonly #answers: AsyncIterator<WriteContentResponse>;
  #next = Promise.withResolvers<Request | undefined>();
  #closed = false;

  constructor(call: (requests: AsyncIterable<Request>) => AsyncIterable<WriteContentResponse>) {
    this.#answers = call(this.#requests())[Symbol.asyncIterator]();
  }

  async *#requests(): AsyncGenerator<Request> {
    for (;;) {
      const request = await this.#next.promise;
      if (request === undefined) return;
      this.#next = Promise.withResolvers();
      yield request;
    }
  }

  async ask(request: Request): Promise<WriteContentResponse> {
    if (this.#closed) throw classified("failed-precondition", "write content of proxy plugin: the writer is closed");
    this.#next.resolve(request);
    try {
      const next = await this.#answers.next();
      if (next.done !== true) return next.value;
    } catch (error) {
      await this.close();
      throw error;
    }
    await this.close();
    throw classified("unavailable", "write content of proxy plugin: it ended the stream without an answer");
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#next.resolve(undefined);
    await this.#answers.return?.().catch(() => undefined);
  }
}
