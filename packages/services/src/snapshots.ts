import { classified } from "@stevedore/base";
import { mountToProto } from "@stevedore/convert/mounts";
import { snapshotInfoFromProto, snapshotInfoToProto } from "@stevedore/convert/snapshots";
import type { EventExchange, Snapshotter } from "@stevedore/core";
import {
  SnapshotCommitSchema,
  SnapshotPrepareSchema,
  SnapshotRemoveSchema,
} from "@stevedore/wire/gen/containerd/events/snapshot_pb";
import type { Snapshots } from "@stevedore/wire/gen/containerd/services/snapshots/v1/snapshots_pb";
import type { ServiceImpl } from "@stevedore/wire/rpc/index";
import { announcing, inChunks, pathsOf, requestContext, required } from "./request.ts";

/** The snapshots service over the snapshotters by name. */
export function snapshotsService(of: {
  readonly snapshotters: ReadonlyMap<string, Snapshotter>;
  readonly events: EventExchange;
}): ServiceImpl<typeof Snapshots> {
  const { snapshotters, events } = of;
  const named = (name: string): Snapshotter => {
    if (name === "") {
      throw classified("invalid-argument", "snapshotter argument missing: invalid argument");
    }
    const found = snapshotters.get(name);
    if (found === undefined) {
      throw classified("invalid-argument", `snapshotter not loaded: ${name}: invalid argument`);
    }
    return found;
  };
  return {
    prepare: async ({ snapshotter, key, parent, labels }, call) => {
      const mounts = await announcing(
        {
          events,
          context: requestContext(call),
          topic: "/snapshot/prepare",
          schema: SnapshotPrepareSchema,
          known: { key, parent, snapshotter },
        },
        (context) => named(snapshotter).prepare(context, key, { parent, labels }),
      );
      return { mounts: mounts.map(mountToProto) };
    },
    view: async ({ snapshotter, key, parent, labels }, call) => {
      const mounts = await named(snapshotter).view(requestContext(call), key, { parent, labels });
      return { mounts: mounts.map(mountToProto) };
    },
    mounts: async ({ snapshotter, key }, call) => ({
      mounts: (await named(snapshotter).mounts(requestContext(call), key)).map(mountToProto),
    }),
    commit: async ({ snapshotter, name, key, labels, parent }, call) => {
      await announcing(
        {
          events,
          context: requestContext(call),
          topic: "/snapshot/commit",
          schema: SnapshotCommitSchema,
          known: { key, name, snapshotter },
        },
        (context) => named(snapshotter).commit(context, name, { key, labels, ...(parent === "" ? {} : { parent }) }),
      );
      return {};
    },
    remove: async ({ snapshotter, key }, call) => {
      await announcing(
        {
          events,
          context: requestContext(call),
          topic: "/snapshot/remove",
          schema: SnapshotRemoveSchema,
          known: { key, snapshotter },
        },
        (context) => named(snapshotter).remove(context, key),
      );
      return {};
    },
    stat: async ({ snapshotter, key }, call) => ({
      info: snapshotInfoToProto(await named(snapshotter).stat(requestContext(call), key)),
    }),
    update: async ({ snapshotter, info, updateMask }, call) => {
      const { name, labels } = snapshotInfoFromProto(required(info, "snapshot info"));
      const updated = await named(snapshotter).update(requestContext(call), { name, labels }, pathsOf(updateMask));
      return { info: snapshotInfoToProto(updated) };
    },
    list: async function* ({ snapshotter, filters }, call) {
      for await (const chunk of inChunks(named(snapshotter).walk(requestContext(call), filters))) {
        yield { info: chunk.map(snapshotInfoToProto) };
      }
    },
    usage: async ({ snapshotter, key }, call) => {
      const { size, inodes } = await named(snapshotter).usage(requestContext(call), key);
      return { size: BigInt(size), inodes: BigInt(inodes) };
    },
    cleanup: async ({ snapshotter }, call) => {
      await named(snapshotter).cleanup(requestContext(call));
      return {};
    },
  };
}
