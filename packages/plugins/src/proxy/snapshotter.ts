import { mountFromProto } from "@stevedore/convert/mounts";
import { snapshotInfoFromProto } from "@stevedore/convert/snapshots";
import type { Snapshotter } from "@stevedore/core";
import { Snapshots } from "@stevedore/wire/gen/containerd/services/snapshots/v1/snapshots_pb";
import { createClient, type Transport } from "@stevedore/wire/rpc/index";
import { callOptions, present, updateMask } from "./request.ts";

/** The snapshotter `name` of another process. The transport stays the caller's. */
export function createProxySnapshotter(options: { readonly transport: Transport; readonly name: string }): Snapshotter {
  const { name: snapshotter } = options;
  const client = createClient(Snapshots, options.transport);
  return {
    stat: async (context, key) =>
      snapshotInfoFromProto(present((await client.stat({ snapshotter, key }, callOptions(context))).info, "info")),
    update: async (context, { name, labels }, fields) => {
      const request = { snapshotter, info: { name, labels: { ...labels } }, ...updateMask(fields) };
      return snapshotInfoFromProto(present((await client.update(request, callOptions(context))).info, "info"));
    },
    usage: async (context, key) => {
      const { inodes, size } = await client.usage({ snapshotter, key }, callOptions(context));
      return { inodes: Number(inodes), size: Number(size) };
    },
    mounts: async (context, key) =>
      (await client.mounts({ snapshotter, key }, callOptions(context))).mounts.map(mountFromProto),
    prepare: async (context, key, { parent, labels = {} }) => {
      const request = { snapshotter, key, parent, labels: { ...labels } };
      return (await client.prepare(request, callOptions(context))).mounts.map(mountFromProto);
    },
    view: async (context, key, { parent, labels = {} }) => {
      const request = { snapshotter, key, parent, labels: { ...labels } };
      return (await client.view(request, callOptions(context))).mounts.map(mountFromProto);
    },
    commit: async (context, name, { key, labels = {}, parent = "" }) => {
      await client.commit({ snapshotter, name, key, labels: { ...labels }, parent }, callOptions(context));
    },
    remove: async (context, key) => {
      await client.remove({ snapshotter, key }, callOptions(context));
    },
    walk: async function* (context, filters) {
      for await (const { info } of client.list({ snapshotter, filters: [...filters] }, callOptions(context))) {
        yield* info.map(snapshotInfoFromProto);
      }
    },
    cleanup: async (context) => {
      await client.cleanup({ snapshotter }, callOptions(context));
    },
  };
}
