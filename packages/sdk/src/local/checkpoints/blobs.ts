/** The documents of a checkpoint in the content store. */
import { randomBytes } from "node:crypto";
import { classified, encodeText, isErrorClass, messageOf, type RequestContext } from "@stevedore/base";
import type { AnyValue, ContentStore, Descriptor } from "@stevedore/core";
import { Label } from "@stevedore/oci/annotations";
import { type Index, parseIndex } from "@stevedore/oci/manifest";
import { MediaType } from "@stevedore/oci/media-types";
import type { Platform } from "@stevedore/oci/platform";
import type { Client } from "../../client.ts";
import { readBlob } from "../../images/tree.ts";

/** Annotations of a checkpoint's index: the peer's names. */
export const CheckpointAnnotation = {
  runtime: "io.containerd.checkpoint.runtime",
  snapshotter: "io.containerd.checkpoint.snapshotter",
} as const;

/** On the image of a checkpoint that was made on this machine, or that its operator vouches for. */
export const CHECKPOINT_LABEL = "containerd.io/checkpoint";

/** What an index names; the platform only of what was made here. */
export type CheckpointPart = Descriptor & { readonly platform?: Platform };

/** Writes a blob and gives its descriptor; one that is there already is as good. */
export async function writeBlob(
  content: ContentStore,
  context: RequestContext,
  blob: {
    readonly mediaType: string;
    readonly bytes: Uint8Array;
    readonly labels?: Readonly<Record<string, string>>;
  },
): Promise<Descriptor> {
  const { mediaType, bytes, labels = {} } = blob;
  await using writer = await content.writer(context, { ref: `checkpoint-${randomBytes(8).toString("hex")}` });
  await writer.write(bytes);
  const digest = writer.digest();
  try {
    await writer.commit(context, { size: bytes.byteLength, labels });
  } catch (error) {
    if (!isErrorClass(error, "already-exists")) throw error;
    // It may be there without what keeps the blobs it names.
    await content.update(
      context,
      { digest, labels },
      Object.keys(labels).map((key) => `labels.${key}`),
    );
  }
  return { mediaType, digest, size: bytes.byteLength };
}

/** Writes the index of a checkpoint, which keeps all it names. */
export async function writeCheckpointIndex(
  content: ContentStore,
  context: RequestContext,
  of: { readonly parts: readonly CheckpointPart[]; readonly annotations: Readonly<Record<string, string>> },
): Promise<Descriptor> {
  const manifests = of.parts.map(({ mediaType, digest, size, annotations, platform }) => ({
    mediaType,
    digest,
    size,
    ...(annotations === undefined ? {} : { annotations }),
    ...(platform === undefined ? {} : { platform }),
  }));
  const text = JSON.stringify({
    schemaVersion: 2,
    manifests,
    ...(Object.keys(of.annotations).length === 0 ? {} : { annotations: of.annotations }),
  });
  const labels = Object.fromEntries(of.parts.map(({ digest }, at) => [`${Label.gcRefContent}.${at}`, digest]));
  return writeBlob(content, context, { mediaType: MediaType.ociIndex, bytes: encodeText(`${text}\n`), labels });
}

/** The index of a checkpoint. @throws invalid-argument for what is none */
export async function readCheckpointIndex(client: Client, context: RequestContext, target: Descriptor): Promise<Index> {
  try {
    return parseIndex(await readBlob(client.content, context, target), target.mediaType);
  } catch (error) {
    if (isErrorClass(error, "not-found")) throw error;
    throw classified("invalid-argument", `${target.digest} is no checkpoint: ${messageOf(error)}`, { cause: error });
  }
}

/** The first part of a media type; undefined when the checkpoint has none. */
export function partOf(index: Index, mediaType: string): Descriptor | undefined {
  const found = index.manifests.find((one) => one.mediaType === mediaType);
  // Its annotations came with the checkpoint, and steer nothing here.
  return found === undefined ? undefined : { mediaType, digest: found.digest, size: found.size };
}

/** An Any among the content, as protobuf's bytes. @throws invalid-argument for bytes that are none */
export async function readAny(client: Client, context: RequestContext, part: Descriptor): Promise<AnyValue> {
  const [{ decodeMessage }, { AnySchema }] = await Promise.all([
    import("@stevedore/wire/codec"),
    import("@stevedore/wire/light/wkt"),
  ]);
  const { typeUrl, value } = decodeMessage(AnySchema, await readBlob(client.content, context, part));
  return { typeUrl, value };
}

/** An Any as protobuf's bytes. */
export async function encodeAny({ typeUrl, value }: AnyValue): Promise<Uint8Array> {
  const [{ encodeMessage, makeMessage }, { AnySchema }] = await Promise.all([
    import("@stevedore/wire/codec"),
    import("@stevedore/wire/light/wkt"),
  ]);
  return encodeMessage(AnySchema, makeMessage(AnySchema, { typeUrl, value }));
}
