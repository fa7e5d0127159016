/** Snapshots for containers in a user namespace, whose files belong to the ids outside. */
import { isErrorClass, type RequestContext } from "@stevedore/base";
import type { Mount, Snapshotter } from "@stevedore/core";
import { withTempMount } from "@stevedore/os/mount";
import { type IdRange, mapOwners } from "@stevedore/os/owners";

/** Which ids inside are which outside. */
export interface OwnerMaps {
  readonly uid: readonly IdRange[];
  readonly gid: readonly IdRange[];
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
