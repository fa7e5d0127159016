import { classified } from "@stevedore/base";
import type { Descriptor, Image, TransferExport, TransferImport, TransferStore } from "@stevedore/core";
import { parseIndex } from "@stevedore/oci/manifest";
import { MediaType } from "@stevedore/oci/media-types";
import { allPlatforms, defaultMatcher, normalizePlatform, ordered } from "@stevedore/oci/platform";
import { exportArchive } from "../export.ts";
import { storeArchive } from "../import.ts";
import { hasBlob } from "../ingest.ts";
import type { toImageDescriptor } from "../tree.ts";
import { readBlob } from "../tree.ts";
import { namesOfArchived, namesOfTarget, storeImages } from "./image-names.ts";
import { selectionOf } from "./selection.ts";
import { type Transfer, tellOf } from "./service.ts";
import { Tree } from "./tree-walk.ts";
import { unpackFor, wantedUnpacks } from "./unpacking.ts";

/** Archive to store: its blobs, then its layers unpacked, then its images. */
export async function importImages(transfer: Transfer, source: TransferImport, store: TransferStore): Promise<void> {
  const { shared, context, tell } = transfer;
  tellOf(transfer, "Importing");
  const into = wantedUnpacks(store, shared.unpackers.platforms);
  const index = await storeArchive(shared.unpackers.backend, context, {
    source: source.bytes,
    compressBlobs: source.forceCompress,
    plain: source.mediaType !== "",
  });
  await unpackArchived(transfer, { index, store, into });
  const archived = parseIndex(await readBlob(shared.content, context, index), MediaType.ociIndex).manifests;
  const wishes = [
    { target: index, names: namesOfTarget(store, index) },
    ...archived.map(withoutPlatform).map((target) => ({ target, names: namesOfArchived(store, target) })),
  ];
  for (const { target, names } of wishes) {
    if (names.length === 0) continue;
    for (const image of await storeImages(shared.images, context, { names, target, labels: store.labels })) {
      tell?.({ event: "saved", name: image.name, descriptor: target });
    }
  }
  tellOf(transfer, "Completed import");
}

function withoutPlatform(descriptor: Parameters<typeof toImageDescriptor>[0]): Descriptor {
  const { mediaType, digest, size, annotations } = descriptor;
  return { mediaType, digest, size, ...(annotations === undefined ? {} : { annotations }) };
}

async function unpackArchived(
  transfer: Transfer,
  of: { readonly index: Descriptor; readonly store: TransferStore; readonly into: ReturnType<typeof wantedUnpacks> },
): Promise<void> {
  const { shared } = transfer;
  const { index, store, into } = of;
  const failure = new AbortController();
  const context = { ...transfer.context, signal: AbortSignal.any([transfer.context.signal, failure.signal]) };
  const tree = new Tree(shared.content, context, {
    select: selectionOf(store),
    failure,
    visitor: {
      partial: true,
      arrive: async ({ digest }) => {
        if (await hasBlob(shared.content, context, digest)) return;
        throw classified("not-found", `content digest ${digest}: not found`);
      },
      onManifest: async (descriptor, manifest) => {
        if (into.length > 0) await unpackFor(shared.unpackers, context, { descriptor, manifest, into });
      },
    },
  });
  try {
    await tree.walk(index);
  } catch (error) {
    transfer.context.signal.throwIfAborted();
    throw error;
  }
  if (tree.size <= 1) throw classified("unknown", "image might be filtered out");
}

/** Store to archive. */
export async function exportImages(transfer: Transfer, store: TransferStore, target: TransferExport): Promise<void> {
  const { shared, context } = transfer;
  tellOf(transfer, "Exporting");
  const images: Image[] = [];
  if (store.name !== "") images.push(await shared.images.get(context, store.name));
  for (const { name, isPrefix } of store.references) {
    if (isPrefix) {
      throw classified("not-implemented", "prefix lookup on export not implemented: not implemented");
    }
    images.push(await shared.images.get(context, name));
  }
  const { platforms } = target;
  const chosen = platforms.length === 0 ? defaultMatcher() : ordered(platforms.map((each) => normalizePlatform(each)));
  await exportArchive(shared.unpackers.backend, context, {
    images,
    matcher: target.allPlatforms ? allPlatforms : chosen,
    allPlatforms: target.allPlatforms,
    skipManifestJson: target.skipCompatibilityManifest,
    skipNonDistributable: target.skipNonDistributable,
    write: target.write,
  });
  target.close();
  tellOf(transfer, "Completed export");
}

/** Archive to archive: the bytes as they are, as the peer does it for its tests. */
export async function echo(source: TransferImport, target: TransferExport): Promise<void> {
  for await (const bytes of source.bytes) await target.write(bytes);
  target.close();
}
