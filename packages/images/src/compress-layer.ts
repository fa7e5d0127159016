import { createGzip } from "node:zlib";
import { isErrorClass, type RequestContext } from "@stevedore/base";
import type { Descriptor } from "@stevedore/core";
import { Label } from "@stevedore/oci/annotations";
import { MediaType } from "@stevedore/oci/media-types";
import type { ImageBackend } from "./backend.ts";
import { openWriter } from "./ingest.ts";
import { through } from "./through.ts";

/** Bytes read at once. */
const CHUNK = 1024 * 1024;

/** Stores a gzipped copy of a plain layer and returns its descriptor. The copy is labelled with the plain digest. */
export async function compressLayer(
  client: ImageBackend,
  context: RequestContext,
  layer: Descriptor,
): Promise<Descriptor> {
  await using reader = await client.content.open(context, layer.digest);
  const plain = (async function* (): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < reader.size; ) {
      const bytes = await reader.readAt(at, CHUNK);
      if (bytes.byteLength === 0) return;
      at += bytes.byteLength;
      yield bytes;
    }
  })();
  await using writer = await openWriter(client.content, context, { ref: `compress-blob-${layer.digest}` });
  if (writer.status().offset > 0) await writer.truncate(0);
  const compressed = through(plain, createGzip());
  for await (const chunk of compressed) await writer.write(chunk);
  const size = writer.status().offset;
  let digest = writer.digest();
  try {
    digest = await writer.commit(context, { labels: { [Label.uncompressed]: layer.digest } });
  } catch (error) {
    if (!isErrorClass(error, "already-exists")) throw error;
  }
  return { mediaType: MediaType.dockerLayerGzip, digest, size };
}
