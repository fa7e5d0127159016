/** Snapshots for containers in a user namespace, whose files belong to the ids outside. */
import { classified, isErrorClass, type RequestContext } from "@stevedore/base";
import type { Mount, Snapshotter } from "@stevedore/core";
import { withTempMount } from "@stevedore/os/mount";
import { type IdRange, mapOwners } from "@stevedore/os/owners";
import type { Client } from "../client.ts";
import { GID_MAPPING_LABEL, UID_MAPPING_LABEL } from "./mapping-labels.ts";

/** Which ids inside are which outside. */
export interface OwnerMaps {
  readonly uid: readonly IdRange[];
  readonly gid: readonly IdRange[];
}

/** containerd's capabilities of snapshotters: it maps owners by itself; and, without that, nobody may copy for it. */
const MAPS_OWNERS = "remap-ids";
const ONLY_MAPS_OWNERS = "only-remap-ids";

/**
 * What a client has to do for labels that map owners: nothing (undefined) with a snapshotter that does it by itself, else a copy with these owners.
 *
 * @throws unknown in the peer's words where neither is possible; invalid-argument for labels that are no mapping.
 */
export async function labelledOwners(
  client: Pick<Client, "introspection">,
  context: RequestContext,
  of: { readonly snapshotter: string; readonly labels: Readonly<Record<string, string>> },
): Promise<OwnerMaps | undefined> {
  const { snapshotter: name, labels } = of;
  const filter = `type==io.containerd.snapshotter.v1, id==${name}`;
  const capabilities = (await client.introspection.plugins(context, [filter]))[0]?.capabilities ?? [];
  if (capabilities.includes(MAPS_OWNERS)) return undefined;
  if (capabilities.includes(ONLY_MAPS_OWNERS)) {
    throw new Error(
      `snapshotter ${JSON.stringify(name)} doesn't support idmap mounts on this host, configure \`slow_chown\` to allow a slower and expensive fallback`,
    );
  }
  return { uid: parseRanges(labels[UID_MAPPING_LABEL] ?? ""), gid: parseRanges(labels[GID_MAPPING_LABEL] ?? "") };
}

/** `container:host:size`, several joined by commas. @throws invalid-argument */
function parseRanges(text: string): IdRange[] {
  return text.split(",").map((part) => {
    const [containerID, hostID, size] = (/^(\d+):(\d+):(\d+)$/.exec(part) ?? []).slice(1).map(Number);
    if (containerID === undefined || hostID === undefined || size === undefined)
      throw classified(
        "invalid-argument",
        `${JSON.stringify(text)} is no list of container:host:size: invalid argument`,
      );
    return { containerID, hostID, size };
  });
}

/**
 * Prepares `key` on a copy of `parent` whose owners are mapped. The copy is a committed snapshot of its own, named after parent and mapping, so that
 * the next container with the same mapping finds it; it goes with its last child. As the peer's client does it, which needs nothing of the snapshotter.
 */
export async function prepareRemapped(
  snapshotter: Snapshotter,
  context: RequestContext,
  of: {
    readonly key: string;
    readonly parent: string;
    readonly maps: OwnerMaps;
    readonly labels: Readonly<Record<string, string>>;
  },
): Promise<readonly Mount[]> {
  const { key, parent, maps, labels } = of;
  const copy = `${parent}-${mapName(maps.uid)}-${mapName(maps.gid)}`;
  const prepare = async (): Promise<readonly Mount[]> => snapshotter.prepare(context, key, { parent: copy, labels });
  try {
    return await prepare();
  } catch (error) {
    if (!isErrorClass(error, "not-found")) throw error;
  }
  const active = `${copy}-remap`;
  const mounts = await snapshotter.prepare(context, active, { parent, labels: {} });
  try {
    await withTempMount(mounts, async (folder) => mapOwners(folder, maps));
    await snapshotter.commit(context, copy, { key: active, labels: {} });
  } catch (error) {
    // What was being done goes before what taking it back says.
    await snapshotter.remove(context, active).catch(() => undefined);
    throw error;
  }
  return prepare();
}

// The common case, one range from 0 on, has the name that the peer's clients give it.
function mapName(ranges: readonly IdRange[]): string {
  const [first] = ranges;
  if (first !== undefined && ranges.length === 1 && first.containerID === 0) return String(first.hostID);
  return ranges.map(({ containerID, hostID, size }) => `${containerID}.${hostID}.${size}`).join("_");
}
