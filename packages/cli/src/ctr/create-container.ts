/** What `ctr run` and `ctr containers create` share: from arguments and flags to a container. */
import { defaultMatcher, onlyStrict, parsePlatform } from "@stevedore/oci/platform";
import { GID_MAPPING_LABEL, UID_MAPPING_LABEL } from "@stevedore/sdk/local/mapping-labels";
import { type BegunContainer, beginContainer } from "@stevedore/sdk/local/new-container";
import type { OwnerMaps } from "@stevedore/sdk/local/remapped-snapshot";
import { configPathOptions, runcOptions } from "@stevedore/sdk/local/runc-options";
import type { AnyValue } from "@stevedore/sdk/types";
import type { FlagValues } from "../kit/flags.ts";
import { buildSpec, type ContainerFlags, parseMapping, type RunFlags, specFromFile } from "./build-spec.ts";
import type { RUNTIME_FLAGS } from "./container-flags.ts";
import type { Session } from "./globals.ts";
import { parseLabelArgs } from "./labels.ts";

export interface CreateRequest {
  readonly args: readonly string[];
  readonly flags: ContainerFlags;
  readonly run?: RunFlags;
  readonly cgroupGiven: boolean;
  readonly namespace: string;
  readonly warn: (message: string) => void;
}

/** Creates the container that the command line asks for; its lease is still being deleted. */
export async function createFromFlags(session: Session, request: CreateRequest): Promise<BegunContainer> {
  const { flags, run } = request;
  const withConfig = flags.config !== "";
  const [first = "", second = "", ...rest] = request.args;
  const id = withConfig ? first : second;
  if (withConfig) {
    if (id === "") throw new Error("with spec config file, container id must be provided");
    if (request.args.length > 1) throw new Error("with spec config file, only container id should be provided");
  } else {
    if (first === "") throw new Error("image ref must be provided");
    if (id === "") throw new Error("container id must be provided");
  }
  const ownRootfs = !withConfig && flags.rootfs;
  const platform = run?.platform ?? "";
  const begun = await beginContainer(session.client, session.context, {
    id,
    snapshotter: flags.snapshotter,
    snapshotLabels: { ...parseLabelArgs(flags.snapshotterLabel), ...remapLabels(run) },
    labels: parseLabelArgs(flags.label),
    runtime: { name: flags.runtime, options: await runtimeOptions(flags) },
    sandbox: flags.sandbox,
    syncFs: run?.syncFs ?? false,
    ...ownerMaps(run),
    ...(withConfig || ownRootfs
      ? {}
      : {
          image: { name: first, matcher: platform === "" ? defaultMatcher() : onlyStrict(parsePlatform(platform)) },
        }),
    spec: async (source) =>
      withConfig
        ? specFromFile(flags.config)
        : buildSpec(
            {
              id,
              namespace: request.namespace,
              signal: session.context.signal,
              warn: request.warn,
              flags,
              ...(run === undefined ? {} : { run }),
              cgroupGiven: request.cgroupGiven,
              args: rest,
              ...(ownRootfs ? { rootfs: first } : {}),
            },
            source,
          ),
  });
  const { spec } = begun.container;
  if (run !== undefined && run.dumpConfig !== "" && spec !== undefined) await Bun.write(run.dumpConfig, spec.value);
  return begun;
}

/** Options for the runtime that the flags name. */
export async function runtimeOptions(flags: FlagValues<typeof RUNTIME_FLAGS>): Promise<AnyValue> {
  if (flags.runtimeConfigPath !== "") {
    if (flags.runcBinary !== "" || flags.runcRoot !== "" || flags.runcSystemdCgroup) {
      throw new Error("--runtime-config-path cannot be used with options of runc");
    }
    return configPathOptions(flags.runtimeConfigPath);
  }
  const runc = flags.runtime === "io.containerd.runc.v2";
  if (!runc && (flags.runcBinary !== "" || flags.runcRoot !== "")) {
    throw new Error('specifying runc-binary and runc-root is only supported for "io.containerd.runc.v2" runtime');
  }
  return runcOptions({ binary: flags.runcBinary, root: flags.runcRoot, systemdCgroup: flags.runcSystemdCgroup });
}

// The peer maps only with both, and leaves it to the snapshotter when it is told so.
function ownerMaps(run: RunFlags | undefined): { readonly owners?: OwnerMaps } {
  if (run === undefined || run.remapLabels || run.uidmap.length === 0 || run.gidmap.length === 0) return {};
  return { owners: { uid: run.uidmap.map(parseMapping), gid: run.gidmap.map(parseMapping) } };
}

/** Labels that tell a snapshotter to remap ids, for containers in a user namespace. */
function remapLabels(run: RunFlags | undefined): Record<string, string> {
  if (run === undefined || (run.uidmap.length === 0 && run.gidmap.length === 0)) return {};
  if (!run.remapLabels) return {};
  return {
    [UID_MAPPING_LABEL]: run.uidmap.join(","),
    [GID_MAPPING_LABEL]: run.gidmap.join(","),
  };
}
