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

/** A snapshotter whose changes are told as events, under its name. */
export function announcedSnapshotter(of: {
  readonly name: string;
  readonly snapshotter: Snapshotter;
  readonly events: EventExchange;
}): Snapshotter {
  const { name: snapshotter, snapshotter: inner, events } = of;
  return {
    stat: async (context, name) => inner.stat(context, name),
    update: async (context, info, fields) => inner.update(context, info, fields),
    usage: async (context, name) => inner.usage(context, name),
    mounts: async (context, key) => inner.mounts(context, key),
    view: async (context, key, options) => inner.view(context, key, options),
    walk: (context, filters) => inner.walk(context, filters),
    cleanup: async (context) => inner.cleanup(context),
    prepare: async (context, key, options) => {
      const known = { key, parent: options.parent, snapshotter };
      return announcing(
        { events, context, topic: "/snapshot/prepare", schema: SnapshotPrepareSchema, known },
        (announced) => inner.prepare(announced, key, options),
      );
    },
    commit: async (context, name, options) => {
      const known = { key: options.key, name, snapshotter };
      await announcing(
        { events, context, topic: "/snapshot/commit", schema: SnapshotCommitSchema, known },
        (announced) => inner.commit(announced, name, options),
      );
    },
    remove: async (context, name) => {
      const known = { key: name, snapshotter };
      await announcing(
        { events, context, topic: "/snapshot/remove", schema: SnapshotRemoveSchema, known },
        (announced) => inner.remove(announced, name),
      );
    },
  };
}

/** The snapshots service over the snapshotters by name. */
export function snapshotsService(of: {
  readonly snapshotters: ReadonlyMap<string, Snapshotter>;
  readonly events: EventExchange;
}): ServiceImpl<typeof Snapshots> {
  const snapshotters = new Map(
    [...of.snapshotters].map(([name, snapshotter]) => [
      name,
      announcedSnapshotter({ name, snapshotter, events: of.events }),
    ]),
  );
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
      const mounts = await named(snapshotter).prepare(requestContext(call), key, { parent, labels });
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
      const options = { key, labels, ...(parent === "" ? {} : { parent }) };
      await named(snapshotter).commit(requestContext(call), name, options);
      return {};
    },
    remove: async ({ snapshotter, key }, call) => {
      await named(snapshotter).remove(requestContext(call), key);
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
