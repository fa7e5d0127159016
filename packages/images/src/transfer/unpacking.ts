import { classified, type RequestContext } from "@stevedore/base";
import type { KeyedLock } from "@stevedore/core";
import { type Descriptor, type Pool, type TransferStore, type UnpackPlatform } from "@stevedore/core";
import {
  configPlatform,
  type Manifest,
  type Descriptor as OciDescriptor,
  parseImageConfig,
} from "@stevedore/oci/manifest";
import { isConfigType } from "@stevedore/oci/media-types";
import { normalizePlatform } from "@stevedore/oci/platform";
import type { ImageBackend } from "../backend.ts";
import { type PlatformManifest, readBlob, toImageDescriptor } from "../tree.ts";
import { unpackManifest } from "../unpack.ts";

/** What a client means by no snapshotter. */
const DEFAULT_SNAPSHOTTER = "overlayfs";

/** What all transfers of a daemon unpack with. */
export interface Unpackers {
  readonly backend: ImageBackend;
  /** In order of preference. */
  readonly platforms: readonly UnpackPlatform[];
  readonly pool: Pool;
  readonly locks: KeyedLock;
}

/**
 * The snapshotters that the wishes of a client come to.
 *
 * @throws invalid-argument, in containerd's words, when it has wishes and none can be met
 */
export function wantedUnpacks({ unpacks }: TransferStore, platforms: readonly UnpackPlatform[]): UnpackPlatform[] {
  const found = new Set<UnpackPlatform>();
  for (const { platform, snapshotter } of unpacks) {
    const wanted = snapshotter === "" ? DEFAULT_SNAPSHOTTER : snapshotter;
    const match = platforms.find(
      (each) => each.snapshotter === wanted && each.platform.match(normalizePlatform(platform)),
    );
    if (match !== undefined) found.add(match);
  }
  if (unpacks.length > 0 && found.size === 0) {
    const wishes = unpacks.map(
      ({ platform: { os, architecture }, snapshotter }) =>
        `${os}/${architecture} with ${snapshotter === "" ? DEFAULT_SNAPSHOTTER : snapshotter}`,
    );
    throw classified(
      "invalid-argument",
      `unable to initialize unpacker: no unpack platforms defined (${wishes.join(", ")}): invalid argument`,
    );
  }
  return [...found];
}

/** A manifest whose layers are unpacked as they arrive. */
export interface UnpackRequest {
  readonly descriptor: OciDescriptor;
  readonly manifest: Manifest;
  /** Where to: {@link wantedUnpacks}. */
  readonly into: readonly UnpackPlatform[];
  readonly arrived?: (layer: Descriptor) => Promise<void>;
  readonly onLayer?: (layer: Descriptor, state: "extracting" | "extracted") => void;
}

/** Unpacks a manifest whose config is there; nothing for what is no image, or for a platform nobody wants unpacked. */
export async function unpackFor(of: Unpackers, context: RequestContext, request: UnpackRequest): Promise<void> {
  const { descriptor, manifest, into, arrived, onLayer } = request;
  if (!isConfigType(manifest.config.mediaType)) return;
  const config = parseImageConfig(await readBlob(of.backend.content, context, manifest.config));
  const platform = normalizePlatform(configPlatform(config));
  const image: PlatformManifest = { descriptor: toImageDescriptor(descriptor), manifest, config, platform };
  await Promise.all(
    into
      .filter((each) => each.platform.match(platform))
      .map(async ({ snapshotter, applier }) =>
        unpackManifest({ ...of.backend, diff: applier }, context, {
          image,
          snapshotter,
          locks: of.locks,
          pool: of.pool,
          ...(arrived === undefined ? {} : { arrived }),
          ...(onLayer === undefined ? {} : { onLayer }),
        }),
      ),
  );
}
