import { classified, type RequestContext } from "@stevedore/base";
import { contentInfoFromProto, ingestStatusFromProto } from "@stevedore/convert/content";
import type { ContentReader, ContentStore } from "@stevedore/core";
import { Content } from "@stevedore/wire/gen/containerd/services/content/v1/content_pb";
import { createClient, type Transport } from "@stevedore/wire/rpc/index";
import { openProxyWriter } from "./content-writer.ts";
import { callOptions, present, updateMask } from "./request.ts";

/** The content store of another process. The transport stays the caller's. */
export function createProxyContentStore(options: { readonly transport: Transport }): ContentStore {
  const client = createClient(Content, options.transport);
  const info = async (context: RequestContext, digest: string) =>
    contentInfoFromProto(present((await client.info({ digest }, callOptions(context))).info, "info"));

  const readAt = async (
    context: RequestContext,
    digest: string,
    range: { readonly offset: number; readonly length: number },
  ): Promise<Uint8Array> => {
    const bytes = new Uint8Array(range.length);
    let filled = 0;
    const request = { digest, offset: BigInt(range.offset), size: BigInt(range.length) };
    for await (const { data } of client.read(request, callOptions(context))) {
      if (filled + data.byteLength > bytes.byteLength) {
        throw classified("internal", `read content ${digest} of proxy plugin: more bytes than asked for`);
      }
      bytes.set(data, filled);
      filled += data.byteLength;
    }
    return bytes.subarray(0, filled);
  };

  return {
    info,
    update: async (context, { digest, labels }, fields) => {
      const request = { info: { digest, labels: { ...labels } }, ...updateMask(fields) };
      return contentInfoFromProto(present((await client.update(request, callOptions(context))).info, "info"));
    },
    list: async function* (context, filters) {
      for await (const { info: infos } of client.list({ filters: [...filters] }, callOptions(context))) {
        yield* infos.map(contentInfoFromProto);
      }
    },
    delete: async (context, digest) => {
      await client.delete({ digest }, callOptions(context));
    },
    open: async (context, digest): Promise<ContentReader> => {
      const { size } = await info(context, digest);
      return {
        size,
        readAt: async (offset, length) => {
          if (offset < 0) throw classified("out-of-range", `read content ${digest} at ${offset}: out of range`);
          const wanted = Math.min(length, size - offset);
          return wanted <= 0 ? new Uint8Array() : readAt(context, digest, { offset, length: wanted });
        },
        // Nothing is open between reads.
        [Symbol.asyncDispose]: async () => undefined,
      };
    },
    writer: async (context, writerOptions) =>
      openProxyWriter((requests) => client.write(requests, callOptions(context)), writerOptions),
    status: async (context, ref) =>
      ingestStatusFromProto(present((await client.status({ ref }, callOptions(context))).status, "status")),
    listStatuses: async (context, filters) => {
      const { statuses } = await client.listStatuses({ filters: [...filters] }, callOptions(context));
      return statuses.map(ingestStatusFromProto);
    },
    abort: async (context, ref) => {
      await client.abort({ ref }, callOptions(context));
    },
  };
}
