/** The transfer service's plugin `local`: the stores of this daemon with what its section of the configuration says. */
import { availableParallelism } from "node:os";
import { classified } from "@stevedore/base";
import type { Differ, ImageVerifier, Transferrer, UnpackPlatform } from "@stevedore/core";
import type { ImageBackend } from "@stevedore/images/backend";
import { allPlatforms, formatPlatform, hostPlatform, only, parsePlatform } from "@stevedore/oci/platform";
import { createTransferrer } from "@stevedore/plugins/transfer/impl";
import { announcedImages } from "@stevedore/services/images";
import { announcedSnapshotter } from "@stevedore/services/snapshots";
import { flagAt, numberAt, textAt } from "./config/read.ts";
import { isTable } from "./config/types.ts";
import type { PluginContext } from "./graph.ts";
import { Key } from "./keys.ts";

/** What clients mean by no snapshotter. */
const DEFAULT_SNAPSHOTTER = "overlayfs";

export interface TransferRequest {
  readonly context: PluginContext;
  readonly differs: ReadonlyMap<string, Differ>;
  readonly verifiers: ReadonlyMap<string, ImageVerifier>;
}

/** @throws invalid-argument or not-found for an `unpack_config` that cannot be met */
export async function startTransfer(request: TransferRequest): Promise<Transferrer> {
  const { context } = request;
  const { config } = context;
  const events = context.get(Key.events);
  const stores = context.get(Key.metadata);
  const records = context.get(Key.introspectionService);
  const snapshotters = new Map(
    [...stores.snapshotters].map(([name, snapshotter]) => [name, announcedSnapshotter({ name, snapshotter, events })]),
  );
  const diff = context.get(Key.diffService);
  const backend: ImageBackend = {
    content: stores.content,
    images: announcedImages({ images: stores.images, events }),
    diff,
    introspection: { plugins: async (_context, filters) => Promise.resolve(records(filters)) },
    snapshotter: (name) => {
      const found = snapshotters.get(name === "" ? DEFAULT_SNAPSHOTTER : name);
      if (found === undefined)
        throw classified("not-found", `snapshotter ${JSON.stringify(name)} not found: not found`);
      return found;
    },
  };
  return createTransferrer({
    backend,
    leases: context.get(Key.leases),
    openRegistry: async () =>
      Promise.reject(
        classified("not-implemented", "this version of the daemon has no registry client: not implemented"),
      ),
    verifiers: request.verifiers,
    unpackPlatforms: unpackPlatforms(request, [...snapshotters.keys()]),
    maxDownloads: numberAt(config, "max_concurrent_downloads"),
    maxUploads: numberAt(config, "max_concurrent_uploaded_layers"),
    maxUnpacks: unpacksAtOnce(numberAt(config, "max_concurrent_unpacks")),
  });
}

/** containerd's default of 1 stands for its serial unpack; here it stands for what the machine can do at once. */
function unpacksAtOnce(configured: number): number {
  return configured === 1 ? availableParallelism() : configured;
}

/** `unpack_config`; without it, this platform with every snapshotter. */
function unpackPlatforms(
  { context, differs }: TransferRequest,
  snapshotters: readonly string[],
): readonly UnpackPlatform[] {
  const { config } = context;
  const given = config["unpack_config"];
  const host = formatPlatform(hostPlatform());
  const wanted = Array.isArray(given)
    ? given.map(unpackConfig)
    : snapshotters.map((snapshotter) => ({ platform: host, snapshotter, differ: "" }));
  const strict = flagAt(config, "check_platform_supported");
  return wanted.map(({ platform, snapshotter, differ }) => {
    if (!snapshotters.includes(snapshotter)) {
      throw classified("not-found", `snapshotter ${JSON.stringify(snapshotter)} not found: not found`);
    }
    const applier = differ === "" ? context.get(Key.diffService) : differs.get(differ);
    if (applier === undefined) {
      throw classified("not-found", `failed to get instance for diff plugin ${JSON.stringify(differ)}: not found`);
    }
    return { platform: strict ? only(parsePlatform(platform)) : allPlatforms, snapshotter, applier };
  });
}

function unpackConfig(entry: unknown): {
  readonly platform: string;
  readonly snapshotter: string;
  readonly differ: string;
} {
  if (!isTable(entry)) throw classified("invalid-argument", "unpack_config: an entry is no table: invalid argument");
  const text = (key: string): string => (entry[key] === undefined ? "" : textAt(entry, key));
  const platform = text("platform");
  try {
    parsePlatform(platform);
  } catch (cause) {
    throw classified(
      "invalid-argument",
      `io.containerd.transfer.v1: platform configuration ${platform} invalid: invalid argument`,
      { cause },
    );
  }
  return { platform, snapshotter: text("snapshotter"), differ: text("differ") };
}
