/** The transfer service's plugin `local`: the stores of this daemon with what its section of the configuration says. */
import { availableParallelism } from "node:os";
import { classified } from "@stevedore/base";
import type { Applier, Differ, ImageVerifier, OpenRegistry, Transferrer, UnpackPlatform } from "@stevedore/core";
import type { ImageBackend } from "@stevedore/images/backend";
import type { Registries } from "@stevedore/images/transfer/registry-session";
import { createTransferrer } from "@stevedore/images/transfer/transferrer";
import { allPlatforms, formatPlatform, hostPlatform, only, parsePlatform } from "@stevedore/oci/platform";
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
  /** How this daemon names itself to registries. */
  readonly userAgent: string;
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
  const diff = context.find(Key.diffService) ?? noDiffer();
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
    openRegistry: registryOpener(request),
    verifiers: request.verifiers,
    unpackPlatforms: unpackPlatforms(request, [...snapshotters.keys()]),
    maxDownloads: numberAt(config, "max_concurrent_downloads"),
    maxUploads: numberAt(config, "max_concurrent_uploaded_layers"),
    maxUnpacks: unpacksAtOnce(numberAt(config, "max_concurrent_unpacks")),
  });
}

/** Differs are chosen by what is unpacked for; whoever asks for another is told that there is none. */
function noDiffer(): Applier {
  return { apply: async () => Promise.reject(classified("not-implemented", "no differ is loaded: not implemented")) };
}

/** Ranges below this turn fetching in ranges off in containerd; here they are taken as the default. */
const LEAST_RANGE = 512;

/** The registry client is loaded by the first transfer that needs one. */
function registryOpener({ context, userAgent }: TransferRequest): OpenRegistry {
  const { config, log } = context;
  const configPath = textAt(config, "config_path");
  const rangeSize = numberAt(config, "concurrent_layer_fetch_buffer");
  let opened: Promise<Registries> | undefined;
  const load = async (): Promise<Registries> => {
    const { createRegistries } = await import("@stevedore/images/transfer/registry-session");
    return createRegistries({
      userAgent,
      environment: process.env,
      hostDirs: configPath.split(":").filter((path) => path !== ""),
      log,
      ...(rangeSize > LEAST_RANGE ? { rangeSize } : {}),
    });
  };
  context.cleanup.defer(async () => (await opened)?.[Symbol.dispose]());
  return async (caller, access) => {
    opened ??= load();
    return (await opened).open(caller, access);
  };
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
    const applier = differ === "" ? context.find(Key.diffService) : differs.get(differ);
    if (applier === undefined) {
      const what =
        differ === "" ? "no matching diff plugins" : `failed to get instance for diff plugin ${JSON.stringify(differ)}`;
      throw classified("not-found", `${what}: not found`);
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
