import { mountFromProto } from "@stevedore/convert/mounts";
import { snapshotInfoFromProto } from "@stevedore/convert/snapshots";
import type { Snapshotter } from "@stevedore/core";
import type { Transport } from "@stevedore/wire/rpc/index";
import { callOptions, lazyClient, present } from "./call.ts";

/** The snapshotter of a daemon by its name. */
export function snapshotterProxy(transport: Transport, snapshotter: string): Snapshotter {
  const snapshots = lazyClient(
    transport,
    async () => (await import("@stevedore/wire/gen/light/containerd/services/snapshots/v1/snapshots_pb")).Snapshots,
  );
  return {
    stat: async (context, key) => {
      const { info } = await (await snapshots()).stat({ snapshotter, key }, callOptions(context));
      return snapshotInfoFromProto(present(info, "snapshot"));
    },
    update: async (context, { name, labels }, fields) => {
      const { info } = await (await snapshots()).update(
        {
          snapshotter,
          info: { name, labels: { ...labels } },
          ...(fields.length === 0 ? {} : { updateMask: { paths: [...fields] } }),
        },
        callOptions(context),
      );
      return snapshotInfoFromProto(present(info, "snapshot"));
    },
    usage: async (context, key) => {
      const { size, inodes } = await (await snapshots()).usage({ snapshotter, key }, callOptions(context));
      return { size: Number(size), inodes: Number(inodes) };
    },
    mounts: async (context, key) => {
      const { mounts } = await (await snapshots()).mounts({ snapshotter, key }, callOptions(context));
      return mounts.map(mountFromProto);
    },
    prepare: async (context, key, { parent, labels = {} }) => {
      const { mounts } = await (await snapshots()).prepare(
        { snapshotter, key, parent, labels: { ...labels } },
        callOptions(context),
      );
      return mounts.map(mountFromProto);
    },
    view: async (context, key, { parent, labels = {} }) => {
      const { mounts } = await (await snapshots()).view(
        { snapshotter, key, parent, labels: { ...labels } },
        callOptions(context),
      );
      return mounts.map(mountFromProto);
    },
    commit: async (context, name, { key, labels = {}, parent = "" }) => {
      await (await snapshots()).commit({ snapshotter, name, key, labels: { ...labels }, parent }, callOptions(context));
    },
    remove: async (context, key) => {
      await (await snapshots()).remove({ snapshotter, key }, callOptions(context));
    },
    walk: async function* (context, filters) {
      const client = await snapshots();
      for await (const { info } of client.list({ snapshotter, filters: [...filters] }, callOptions(context))) {
        for (const each of info) yield snapshotInfoFromProto(each);
      }
    },
    cleanup: async (context) => {
      await (await snapshots()).cleanup({ snapshotter }, callOptions(context));
    },
  };
}
