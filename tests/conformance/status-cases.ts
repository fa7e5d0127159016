// The cases of the status table: for each method how to make it work, name something that is missing, meet a conflict, and ask
// for something that is wrong. What a client is then told stands in status-table.json. A text says why a kind has no case.

import { Containers } from "@stevedore/wire/gen/containerd/services/containers/v1/containers_pb";
import { Content, WriteAction } from "@stevedore/wire/gen/containerd/services/content/v1/content_pb";
import { Diff } from "@stevedore/wire/gen/containerd/services/diff/v1/diff_pb";
import { Events } from "@stevedore/wire/gen/containerd/services/events/v1/events_pb";
import { Images } from "@stevedore/wire/gen/containerd/services/images/v1/images_pb";
import { Introspection } from "@stevedore/wire/gen/containerd/services/introspection/v1/introspection_pb";
import { Leases } from "@stevedore/wire/gen/containerd/services/leases/v1/leases_pb";
import { Namespaces } from "@stevedore/wire/gen/containerd/services/namespaces/v1/namespace_pb";
import { Controller, Store } from "@stevedore/wire/gen/containerd/services/sandbox/v1/sandbox_pb";
import { Snapshots } from "@stevedore/wire/gen/containerd/services/snapshots/v1/snapshots_pb";
import { Tasks } from "@stevedore/wire/gen/containerd/services/tasks/v1/tasks_pb";
import { Version } from "@stevedore/wire/gen/containerd/services/version/v1/version_pb";
import { Health } from "@stevedore/wire/gen/grpc/health/v1/health_pb";
import { SANDBOX_CASES } from "./status-sandboxes.ts";
import { drain, each, LAYER_TYPE, NO_BLOB, once, SPEC, type World } from "./status-world.ts";

export const KINDS = ["success", "missing", "conflict", "invalid"] as const;
export type Kind = (typeof KINDS)[number];
export type Run = (world: World) => Promise<unknown>;

/** The cases of a method; a text says why there is none of a kind. */
export type MethodCases = Readonly<Record<Kind, Run | string>>;

/** The services whose every method has cases. */
export const SERVICES = [
  Containers,
  Content,
  Diff,
  Events,
  Images,
  Introspection,
  Leases,
  Namespaces,
  Store,
  Controller,
  Snapshots,
  Tasks,
  Version,
  Health,
];

const READS = "it changes nothing";
const FREE_TEXT = "any text is a valid name here";
const ALL = "it names nothing";
const BAD_FILTER = "name==";

const EVENT = { typeUrl: "containerd.events.NamespaceCreate", value: new Uint8Array([10, 1, 97]) };
const PROCESS = {
  typeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process",
  value: Buffer.from(JSON.stringify({ args: ["/bin/sleep", "100"], cwd: "/", user: { uid: 0, gid: 0 } })),
};
const RESOURCES = {
  typeUrl: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources",
  value: Buffer.from('{"memory":{"limit":104857600}}'),
};

const container = (id: string) => ({ container: { id, runtime: { name: "io.containerd.runc.v2" }, spec: SPEC } });

const containers: Readonly<Record<string, MethodCases>> = {
  "containerd.services.containers.v1.Containers/Get": {
    success: async (w) => w.stub(Containers).get({ id: await w.container() }, w.call()),
    missing: async (w) => w.stub(Containers).get({ id: "none" }, w.call()),
    conflict: READS,
    invalid: async (w) => w.stub(Containers).get({ id: "none" }, w.call({ namespace: "" })),
  },
  "containerd.services.containers.v1.Containers/List": {
    success: async (w) => w.stub(Containers).list({}, w.call()),
    missing: ALL,
    conflict: READS,
    invalid: async (w) => w.stub(Containers).list({ filters: [BAD_FILTER] }, w.call()),
  },
  "containerd.services.containers.v1.Containers/ListStream": {
    success: async (w) => drain(w.stub(Containers).listStream({}, w.call())),
    missing: ALL,
    conflict: READS,
    invalid: async (w) => drain(w.stub(Containers).listStream({ filters: [BAD_FILTER] }, w.call())),
  },
  "containerd.services.containers.v1.Containers/Create": {
    success: async (w) => w.stub(Containers).create(container(w.name("c")), w.call()),
    missing: "what it refers to is not looked up",
    conflict: async (w) => w.stub(Containers).create(container(await w.container()), w.call()),
    invalid: async (w) => w.stub(Containers).create(container("not/valid"), w.call()),
  },
  "containerd.services.containers.v1.Containers/Update": {
    success: async (w) =>
      w
        .stub(Containers)
        .update(
          { container: { id: await w.container(), labels: { a: "b" } }, updateMask: { paths: ["labels"] } },
          w.call(),
        ),
    missing: async (w) => {
      await w.container();
      return w.stub(Containers).update({ container: { id: "none" }, updateMask: { paths: ["labels"] } }, w.call());
    },
    conflict: "the last writer wins",
    invalid: async (w) =>
      w.stub(Containers).update({ container: { id: await w.container() }, updateMask: { paths: ["nope"] } }, w.call()),
  },
  "containerd.services.containers.v1.Containers/Delete": {
    success: async (w) => w.stub(Containers).delete({ id: await w.container() }, w.call()),
    missing: async (w) => {
      await w.container();
      return w.stub(Containers).delete({ id: "none" }, w.call());
    },
    conflict: "a container with a task is deleted like any other",
    invalid: async (w) => w.stub(Containers).delete({ id: "none" }, w.call({ namespace: "" })),
  },
};

const content: Readonly<Record<string, MethodCases>> = {
  "containerd.services.content.v1.Content/Info": {
    success: async (w) => w.stub(Content).info({ digest: await w.blob() }, w.call()),
    missing: async (w) => w.stub(Content).info({ digest: NO_BLOB }, w.call()),
    conflict: READS,
    invalid: async (w) => w.stub(Content).info({ digest: "not-a-digest" }, w.call()),
  },
  "containerd.services.content.v1.Content/Update": {
    success: async (w) =>
      w
        .stub(Content)
        .update({ info: { digest: await w.blob(), labels: { a: "b" } }, updateMask: { paths: ["labels"] } }, w.call()),
    missing: async (w) =>
      w.stub(Content).update({ info: { digest: NO_BLOB }, updateMask: { paths: ["labels"] } }, w.call()),
    conflict: "the last writer wins",
    invalid: async (w) =>
      w.stub(Content).update({ info: { digest: await w.blob() }, updateMask: { paths: ["size"] } }, w.call()),
  },
  "containerd.services.content.v1.Content/List": {
    success: async (w) => {
      await w.blob();
      return drain(w.stub(Content).list({}, w.call()));
    },
    missing: ALL,
    conflict: READS,
    invalid: async (w) => drain(w.stub(Content).list({ filters: [BAD_FILTER] }, w.call())),
  },
  "containerd.services.content.v1.Content/Delete": {
    success: async (w) => w.stub(Content).delete({ digest: await w.blob() }, w.call()),
    missing: async (w) => w.stub(Content).delete({ digest: NO_BLOB }, w.call()),
    conflict: "a blob in use is deleted like any other",
    invalid: async (w) => w.stub(Content).delete({ digest: "sha256:abc" }, w.call()),
  },
  "containerd.services.content.v1.Content/Read": {
    success: async (w) => drain(w.stub(Content).read({ digest: await w.blob() }, w.call())),
    missing: async (w) => drain(w.stub(Content).read({ digest: NO_BLOB }, w.call())),
    conflict: READS,
    invalid: async (w) => drain(w.stub(Content).read({ digest: await w.blob("short"), offset: 100n }, w.call())),
  },
  "containerd.services.content.v1.Content/Status": {
    success: async (w) => {
      const ref = w.name("ref");
      const data = Buffer.from("a");
      await drain(w.stub(Content).write(once({ action: WriteAction.WRITE, ref, data }), w.call()));
      return w.stub(Content).status({ ref }, w.call());
    },
    missing: async (w) => w.stub(Content).status({ ref: "none" }, w.call()),
    conflict: READS,
    invalid: async (w) => w.stub(Content).status({ ref: "none" }, w.call({ namespace: "" })),
  },
  "containerd.services.content.v1.Content/ListStatuses": {
    success: async (w) => w.stub(Content).listStatuses({}, w.call()),
    missing: ALL,
    conflict: READS,
    invalid: async (w) => w.stub(Content).listStatuses({ filters: [BAD_FILTER] }, w.call()),
  },
  "containerd.services.content.v1.Content/Write": {
    success: async (w) => w.blob(),
    missing: "a ref that is new is made",
    conflict: async (w) => {
      const digest = await w.blob();
      const request = { action: WriteAction.STAT, ref: w.name("ref"), total: 3n, expected: digest };
      return drain(w.stub(Content).write(once(request), w.call()));
    },
    invalid: async (w) => {
      const ref = w.name("ref");
      const data = Buffer.from("abc");
      const requests = each(
        { action: WriteAction.WRITE, ref, data },
        { action: WriteAction.WRITE, ref, offset: 100n, data },
      );
      return drain(w.stub(Content).write(requests, w.call()));
    },
  },
  "containerd.services.content.v1.Content/Abort": {
    success: async (w) => {
      const ref = w.name("ref");
      const data = Buffer.from("a");
      await drain(w.stub(Content).write(once({ action: WriteAction.WRITE, ref, data }), w.call()));
      return w.stub(Content).abort({ ref }, w.call());
    },
    missing: async (w) => w.stub(Content).abort({ ref: "none" }, w.call()),
    conflict: "an ingest that is being written is dropped as well",
    invalid: async (w) => w.stub(Content).abort({ ref: "none" }, w.call({ namespace: "" })),
  },
};

const diff: Readonly<Record<string, MethodCases>> = {
  "containerd.services.diff.v1.Diff/Apply": {
    success: async (w) => {
      const { mounts } = await w.stub(Snapshots).prepare({ snapshotter: "native", key: w.name("a") }, w.call());
      // Two empty blocks: the end of a tar archive without entries.
      const digest = await w.blob("\0".repeat(1024));
      return w.stub(Diff).apply({ diff: { mediaType: LAYER_TYPE, digest, size: 1024n }, mounts }, w.call());
    },
    missing: async (w) => {
      const { mounts } = await w.stub(Snapshots).prepare({ snapshotter: "native", key: w.name("a") }, w.call());
      return w.stub(Diff).apply({ diff: { mediaType: LAYER_TYPE, digest: NO_BLOB, size: 1024n }, mounts }, w.call());
    },
    conflict: "a layer may be applied twice",
    invalid: async (w) => {
      const { mounts } = await w.stub(Snapshots).prepare({ snapshotter: "native", key: w.name("a") }, w.call());
      const layer = { mediaType: "application/x-unknown", digest: await w.blob(), size: 1n };
      return w.stub(Diff).apply({ diff: layer, mounts }, w.call());
    },
  },
  "containerd.services.diff.v1.Diff/Diff": {
    success: async (w) => {
      const { mounts: left } = await w.stub(Snapshots).prepare({ snapshotter: "native", key: w.name("a") }, w.call());
      const { mounts: right } = await w.stub(Snapshots).prepare({ snapshotter: "native", key: w.name("a") }, w.call());
      return w.stub(Diff).diff({ left, right, mediaType: LAYER_TYPE, ref: w.name("ref") }, w.call());
    },
    missing: "it is given mounts, not names",
    conflict: "a ref that is in use is waited for",
    invalid: async (w) => w.stub(Diff).diff({ mediaType: "application/x-unknown", ref: w.name("ref") }, w.call()),
  },
};

const events: Readonly<Record<string, MethodCases>> = {
  "containerd.services.events.v1.Events/Publish": {
    success: async (w) => w.stub(Events).publish({ topic: "/some/topic", event: EVENT }, w.call()),
    missing: async (w) => w.stub(Events).publish({ topic: "/some/topic", event: EVENT }, w.call({ namespace: "" })),
    conflict: "events do not conflict",
    invalid: async (w) => w.stub(Events).publish({ topic: "no-slash", event: EVENT }, w.call()),
  },
  "containerd.services.events.v1.Events/Forward": {
    success: async (w) => {
      const timestamp = { seconds: 1n, nanos: 0 };
      const envelope = { timestamp, namespace: w.namespace, topic: "/some/topic", event: EVENT };
      return w.stub(Events).forward({ envelope }, w.call());
    },
    missing: async (w) => {
      const timestamp = { seconds: 1n, nanos: 0 };
      return w.stub(Events).forward({ envelope: { timestamp, topic: "/some/topic", event: EVENT } }, w.call());
    },
    conflict: "events do not conflict",
    invalid: async (w) => {
      const timestamp = { seconds: 1n, nanos: 0 };
      const envelope = { timestamp, namespace: w.namespace, topic: "/some//topic", event: EVENT };
      return w.stub(Events).forward({ envelope }, w.call());
    },
  },
  "containerd.services.events.v1.Events/Subscribe": {
    success: async (w) => {
      const stream = w.stub(Events).subscribe({ filters: [`namespace==${w.namespace}`] }, w.call());
      const first = stream[Symbol.asyncIterator]().next();
      const timer = setInterval(() => {
        w.stub(Events)
          .publish({ topic: "/some/topic", event: EVENT }, w.call())
          .catch(() => undefined);
      }, 20);
      try {
        return await first;
      } finally {
        clearInterval(timer);
      }
    },
    missing: ALL,
    conflict: READS,
    invalid: async (w) => drain(w.stub(Events).subscribe({ filters: ["topic=="] }, w.call())),
  },
};

const image = (name: string, digest: string) => ({ name, target: { mediaType: LAYER_TYPE, digest, size: 4n } });

const images: Readonly<Record<string, MethodCases>> = {
  "containerd.services.images.v1.Images/Get": {
    success: async (w) => w.stub(Images).get({ name: await w.image() }, w.call()),
    missing: async (w) => w.stub(Images).get({ name: "docker.io/library/none:latest" }, w.call()),
    conflict: READS,
    invalid: async (w) => w.stub(Images).get({ name: "none" }, w.call({ namespace: "a/b" })),
  },
  "containerd.services.images.v1.Images/List": {
    success: async (w) => w.stub(Images).list({}, w.call()),
    missing: ALL,
    conflict: READS,
    invalid: async (w) => w.stub(Images).list({ filters: [BAD_FILTER] }, w.call()),
  },
  "containerd.services.images.v1.Images/Create": {
    success: async (w) => w.stub(Images).create({ image: image(w.name("image"), NO_BLOB) }, w.call()),
    missing: "its target is not looked up",
    conflict: async (w) => w.stub(Images).create({ image: image(await w.image(), NO_BLOB) }, w.call()),
    invalid: async (w) => w.stub(Images).create({ image: image("", NO_BLOB) }, w.call()),
  },
  "containerd.services.images.v1.Images/Update": {
    success: async (w) =>
      w.stub(Images).update({ image: image(await w.image(), NO_BLOB), updateMask: { paths: ["target"] } }, w.call()),
    missing: async (w) => w.stub(Images).update({ image: image("none", NO_BLOB) }, w.call()),
    conflict: "the last writer wins",
    invalid: async (w) => w.stub(Images).update({ image: image("", NO_BLOB) }, w.call()),
  },
  "containerd.services.images.v1.Images/Delete": {
    success: async (w) => w.stub(Images).delete({ name: await w.image(), sync: true }, w.call()),
    missing: async (w) => w.stub(Images).delete({ name: "docker.io/library/none:latest" }, w.call()),
    conflict: async (w) =>
      w
        .stub(Images)
        .delete({ name: await w.image(), target: { mediaType: LAYER_TYPE, digest: NO_BLOB, size: 4n } }, w.call()),
    invalid: FREE_TEXT,
  },
};

const introspection: Readonly<Record<string, MethodCases>> = {
  "containerd.services.introspection.v1.Introspection/Plugins": {
    success: async (w) => w.stub(Introspection).plugins({}, w.call()),
    missing: ALL,
    conflict: READS,
    invalid: async (w) => w.stub(Introspection).plugins({ filters: [BAD_FILTER] }, w.call()),
  },
  "containerd.services.introspection.v1.Introspection/Server": {
    success: async (w) => w.stub(Introspection).server({}, w.call()),
    missing: ALL,
    conflict: READS,
    invalid: "it takes nothing",
  },
  "containerd.services.introspection.v1.Introspection/PluginInfo": {
    success: async (w) =>
      w.stub(Introspection).pluginInfo({ type: "io.containerd.content.v1", id: "content" }, w.call()),
    missing: async (w) => w.stub(Introspection).pluginInfo({ type: "io.containerd.none.v1", id: "none" }, w.call()),
    conflict: READS,
    invalid: FREE_TEXT,
  },
};

const leases: Readonly<Record<string, MethodCases>> = {
  "containerd.services.leases.v1.Leases/Create": {
    success: async (w) => w.stub(Leases).create({ id: w.name("lease") }, w.call()),
    missing: ALL,
    conflict: async (w) => w.stub(Leases).create({ id: await w.lease() }, w.call()),
    invalid: async (w) => w.stub(Leases).create({ id: "" }, w.call()),
  },
  "containerd.services.leases.v1.Leases/Delete": {
    success: async (w) => w.stub(Leases).delete({ id: await w.lease(), sync: true }, w.call()),
    missing: async (w) => w.stub(Leases).delete({ id: "none" }, w.call()),
    conflict: "a lease in use is deleted like any other",
    invalid: async (w) => w.stub(Leases).delete({ id: "none" }, w.call({ namespace: "" })),
  },
  "containerd.services.leases.v1.Leases/List": {
    success: async (w) => w.stub(Leases).list({}, w.call()),
    missing: ALL,
    conflict: READS,
    invalid: async (w) => w.stub(Leases).list({ filters: [BAD_FILTER] }, w.call()),
  },
  "containerd.services.leases.v1.Leases/AddResource": {
    success: async (w) =>
      w.stub(Leases).addResource({ id: await w.lease(), resource: { id: await w.blob(), type: "content" } }, w.call()),
    missing: async (w) =>
      w.stub(Leases).addResource({ id: "none", resource: { id: NO_BLOB, type: "content" } }, w.call()),
    conflict: "adding twice is no error",
    invalid: async (w) =>
      w.stub(Leases).addResource({ id: await w.lease(), resource: { id: "x", type: "nonsense" } }, w.call()),
  },
  "containerd.services.leases.v1.Leases/DeleteResource": {
    success: async (w) => {
      const id = await w.lease();
      const resource = { id: await w.blob(), type: "content" };
      await w.stub(Leases).addResource({ id, resource }, w.call());
      return w.stub(Leases).deleteResource({ id, resource }, w.call());
    },
    missing: async (w) =>
      w.stub(Leases).deleteResource({ id: "none", resource: { id: NO_BLOB, type: "content" } }, w.call()),
    conflict: "the resource may be gone",
    invalid: async (w) =>
      w.stub(Leases).deleteResource({ id: await w.lease(), resource: { id: "x", type: "snapshots" } }, w.call()),
  },
  "containerd.services.leases.v1.Leases/ListResources": {
    success: async (w) => w.stub(Leases).listResources({ id: await w.lease() }, w.call()),
    missing: async (w) => w.stub(Leases).listResources({ id: "none" }, w.call()),
    conflict: READS,
    invalid: async (w) => w.stub(Leases).listResources({ id: "none" }, w.call({ namespace: "" })),
  },
};

const namespaces: Readonly<Record<string, MethodCases>> = {
  "containerd.services.namespaces.v1.Namespaces/Get": {
    success: async (w) => w.stub(Namespaces).get({ name: await w.otherNamespace() }, w.call()),
    missing: async (w) => w.stub(Namespaces).get({ name: "none" }, w.call()),
    conflict: READS,
    invalid: FREE_TEXT,
  },
  "containerd.services.namespaces.v1.Namespaces/List": {
    success: async (w) => w.stub(Namespaces).list({}, w.call()),
    missing: ALL,
    conflict: READS,
    invalid: "its filter is not read",
  },
  "containerd.services.namespaces.v1.Namespaces/Create": {
    success: async (w) => w.stub(Namespaces).create({ namespace: { name: w.name("ns") } }, w.call()),
    missing: ALL,
    conflict: async (w) => w.stub(Namespaces).create({ namespace: { name: await w.otherNamespace() } }, w.call()),
    invalid: async (w) => w.stub(Namespaces).create({ namespace: { name: "a/b" } }, w.call()),
  },
  "containerd.services.namespaces.v1.Namespaces/Update": {
    success: async (w) =>
      w.stub(Namespaces).update({ namespace: { name: await w.otherNamespace(), labels: { a: "b" } } }, w.call()),
    missing: async (w) => w.stub(Namespaces).update({ namespace: { name: w.name("new") } }, w.call()),
    conflict: "the last writer wins",
    invalid: async (w) =>
      w
        .stub(Namespaces)
        .update({ namespace: { name: await w.otherNamespace() }, updateMask: { paths: ["nope"] } }, w.call()),
  },
  "containerd.services.namespaces.v1.Namespaces/Delete": {
    success: async (w) => w.stub(Namespaces).delete({ name: await w.otherNamespace() }, w.call()),
    missing: async (w) => w.stub(Namespaces).delete({ name: "none" }, w.call()),
    conflict: async (w) => {
      await w.image();
      return w.stub(Namespaces).delete({ name: w.namespace }, w.call());
    },
    invalid: FREE_TEXT,
  },
};

const snapshotter = "native";

const snapshots: Readonly<Record<string, MethodCases>> = {
  "containerd.services.snapshots.v1.Snapshots/Prepare": {
    success: async (w) => w.stub(Snapshots).prepare({ snapshotter, key: w.name("a") }, w.call()),
    missing: async (w) => w.stub(Snapshots).prepare({ snapshotter, key: w.name("a"), parent: "none" }, w.call()),
    conflict: async (w) => w.stub(Snapshots).prepare({ snapshotter, key: await w.active() }, w.call()),
    invalid: async (w) => w.stub(Snapshots).prepare({ snapshotter: "none", key: w.name("a") }, w.call()),
  },
  "containerd.services.snapshots.v1.Snapshots/View": {
    success: async (w) =>
      w.stub(Snapshots).view({ snapshotter, key: w.name("v"), parent: await w.committed() }, w.call()),
    missing: async (w) => w.stub(Snapshots).view({ snapshotter, key: w.name("v"), parent: "none" }, w.call()),
    conflict: async (w) => w.stub(Snapshots).view({ snapshotter, key: await w.active() }, w.call()),
    invalid: async (w) => w.stub(Snapshots).view({ snapshotter, key: w.name("v"), parent: await w.active() }, w.call()),
  },
  "containerd.services.snapshots.v1.Snapshots/Mounts": {
    success: async (w) => w.stub(Snapshots).mounts({ snapshotter, key: await w.active() }, w.call()),
    missing: async (w) => w.stub(Snapshots).mounts({ snapshotter, key: "none" }, w.call()),
    conflict: READS,
    invalid: async (w) => w.stub(Snapshots).mounts({ key: "none" }, w.call()),
  },
  "containerd.services.snapshots.v1.Snapshots/Commit": {
    success: async (w) => w.committed(),
    missing: async (w) => {
      await w.active();
      return w.stub(Snapshots).commit({ snapshotter, name: w.name("n"), key: "none" }, w.call());
    },
    conflict: async (w) =>
      w.stub(Snapshots).commit({ snapshotter, name: await w.committed(), key: await w.active() }, w.call()),
    invalid: async (w) =>
      w.stub(Snapshots).commit({ snapshotter, name: w.name("n"), key: await w.committed() }, w.call()),
  },
  "containerd.services.snapshots.v1.Snapshots/Remove": {
    success: async (w) => w.stub(Snapshots).remove({ snapshotter, key: await w.active() }, w.call()),
    missing: async (w) => w.stub(Snapshots).remove({ snapshotter, key: "none" }, w.call()),
    conflict: async (w) => {
      const parent = await w.committed();
      await w.stub(Snapshots).prepare({ snapshotter, key: w.name("child"), parent }, w.call());
      return w.stub(Snapshots).remove({ snapshotter, key: parent }, w.call());
    },
    invalid: async (w) => w.stub(Snapshots).remove({ key: "none" }, w.call()),
  },
  "containerd.services.snapshots.v1.Snapshots/Stat": {
    success: async (w) => w.stub(Snapshots).stat({ snapshotter, key: await w.committed() }, w.call()),
    missing: async (w) => w.stub(Snapshots).stat({ snapshotter, key: "none" }, w.call()),
    conflict: READS,
    invalid: async (w) => w.stub(Snapshots).stat({ snapshotter, key: "none" }, w.call({ namespace: "" })),
  },
  "containerd.services.snapshots.v1.Snapshots/Update": {
    success: async (w) =>
      w
        .stub(Snapshots)
        .update(
          { snapshotter, info: { name: await w.committed(), labels: { a: "b" } }, updateMask: { paths: ["labels.a"] } },
          w.call(),
        ),
    missing: async (w) =>
      w.stub(Snapshots).update({ snapshotter, info: { name: "none" }, updateMask: { paths: ["labels"] } }, w.call()),
    conflict: "the last writer wins",
    invalid: async (w) =>
      w
        .stub(Snapshots)
        .update({ snapshotter, info: { name: await w.committed() }, updateMask: { paths: ["parent"] } }, w.call()),
  },
  "containerd.services.snapshots.v1.Snapshots/List": {
    success: async (w) => drain(w.stub(Snapshots).list({ snapshotter }, w.call())),
    missing: async (w) => drain(w.stub(Snapshots).list({ snapshotter: "none" }, w.call())),
    conflict: READS,
    invalid: async (w) => drain(w.stub(Snapshots).list({ snapshotter, filters: [BAD_FILTER] }, w.call())),
  },
  "containerd.services.snapshots.v1.Snapshots/Usage": {
    success: async (w) => w.stub(Snapshots).usage({ snapshotter, key: await w.committed() }, w.call()),
    missing: async (w) => w.stub(Snapshots).usage({ snapshotter, key: "none" }, w.call()),
    conflict: READS,
    invalid: async (w) => w.stub(Snapshots).usage({ key: "none" }, w.call()),
  },
  "containerd.services.snapshots.v1.Snapshots/Cleanup": {
    success: async (w) => w.stub(Snapshots).cleanup({ snapshotter: "overlayfs" }, w.call()),
    missing: async (w) => w.stub(Snapshots).cleanup({ snapshotter: "none" }, w.call()),
    conflict: READS,
    invalid: async (w) => w.stub(Snapshots).cleanup({ snapshotter }, w.call()),
  },
};

async function stopped(w: World): Promise<string> {
  const containerId = await w.task(["true"]);
  await w.stub(Tasks).wait({ containerId }, w.call());
  return containerId;
}

const tasks: Readonly<Record<string, MethodCases>> = {
  "containerd.services.tasks.v1.Tasks/Create": {
    success: async (w) => {
      const containerId = await w.taskless();
      const { container: made } = await w.stub(Containers).get({ id: containerId }, w.call());
      const { mounts } = await w
        .stub(Snapshots)
        .mounts({ snapshotter: made?.snapshotter ?? "", key: made?.snapshotKey ?? "" }, w.call());
      const created = await w.stub(Tasks).create({ containerId, rootfs: mounts }, w.call());
      await w.stub(Tasks).kill({ containerId, signal: 9 }, w.call());
      await w.stub(Tasks).wait({ containerId }, w.call());
      await w.stub(Tasks).delete({ containerId }, w.call());
      return created;
    },
    missing: async (w) => w.stub(Tasks).create({ containerId: "none" }, w.call()),
    conflict: async (w) => w.stub(Tasks).create({ containerId: await w.task() }, w.call()),
    invalid: async (w) => w.stub(Tasks).create({ containerId: "none" }, w.call({ namespace: "" })),
  },
  "containerd.services.tasks.v1.Tasks/Start": {
    success: async (w) => {
      const containerId = await w.task();
      await w.stub(Tasks).exec({ containerId, execId: "e", spec: PROCESS }, w.call());
      return w.stub(Tasks).start({ containerId, execId: "e" }, w.call());
    },
    missing: async (w) => w.stub(Tasks).start({ containerId: "none" }, w.call()),
    conflict: "starting twice depends on the runtime",
    invalid: async (w) => w.stub(Tasks).start({ containerId: await w.task(), execId: "none" }, w.call()),
  },
  "containerd.services.tasks.v1.Tasks/Delete": {
    success: async (w) => w.stub(Tasks).delete({ containerId: await stopped(w) }, w.call()),
    missing: async (w) => w.stub(Tasks).delete({ containerId: "none" }, w.call()),
    conflict: async (w) => w.stub(Tasks).delete({ containerId: await w.task() }, w.call()),
    invalid: async (w) => w.stub(Tasks).delete({ containerId: "none" }, w.call({ namespace: "" })),
  },
  "containerd.services.tasks.v1.Tasks/DeleteProcess": {
    success: async (w) => {
      const containerId = await w.task();
      await w.stub(Tasks).exec({ containerId, execId: "e", spec: PROCESS }, w.call());
      return w.stub(Tasks).deleteProcess({ containerId, execId: "e" }, w.call());
    },
    missing: async (w) => w.stub(Tasks).deleteProcess({ containerId: await w.task(), execId: "none" }, w.call()),
    conflict: async (w) => {
      const containerId = await w.task();
      await w.stub(Tasks).exec({ containerId, execId: "e", spec: PROCESS }, w.call());
      await w.stub(Tasks).start({ containerId, execId: "e" }, w.call());
      return w.stub(Tasks).deleteProcess({ containerId, execId: "e" }, w.call());
    },
    invalid: async (w) => w.stub(Tasks).deleteProcess({ containerId: "none", execId: "e" }, w.call()),
  },
  "containerd.services.tasks.v1.Tasks/Get": {
    success: async (w) => w.stub(Tasks).get({ containerId: await w.task() }, w.call()),
    missing: async (w) => w.stub(Tasks).get({ containerId: "none" }, w.call()),
    conflict: READS,
    invalid: async (w) => w.stub(Tasks).get({ containerId: await w.task(), execId: "none" }, w.call()),
  },
  "containerd.services.tasks.v1.Tasks/List": {
    success: async (w) => w.stub(Tasks).list({}, w.call()),
    missing: ALL,
    conflict: READS,
    invalid: async (w) => w.stub(Tasks).list({}, w.call({ namespace: "" })),
  },
  "containerd.services.tasks.v1.Tasks/Kill": {
    success: async (w) => w.stub(Tasks).kill({ containerId: await w.task(), signal: 9, all: true }, w.call()),
    missing: async (w) => w.stub(Tasks).kill({ containerId: "none", signal: 9 }, w.call()),
    conflict: async (w) => w.stub(Tasks).kill({ containerId: await stopped(w), signal: 9 }, w.call()),
    invalid: async (w) => w.stub(Tasks).kill({ containerId: await w.task(), execId: "none", signal: 9 }, w.call()),
  },
  "containerd.services.tasks.v1.Tasks/Exec": {
    success: async (w) => w.stub(Tasks).exec({ containerId: await w.task(), execId: "e", spec: PROCESS }, w.call()),
    missing: async (w) => w.stub(Tasks).exec({ containerId: "none", execId: "e", spec: PROCESS }, w.call()),
    conflict: async (w) => {
      const containerId = await w.task();
      await w.stub(Tasks).exec({ containerId, execId: "e", spec: PROCESS }, w.call());
      return w.stub(Tasks).exec({ containerId, execId: "e", spec: PROCESS }, w.call());
    },
    invalid: async (w) => w.stub(Tasks).exec({ containerId: await w.task(), spec: PROCESS }, w.call()),
  },
  "containerd.services.tasks.v1.Tasks/ResizePty": {
    success: async (w) => w.stub(Tasks).resizePty({ containerId: await w.task(), width: 80, height: 24 }, w.call()),
    missing: async (w) => w.stub(Tasks).resizePty({ containerId: "none", width: 80, height: 24 }, w.call()),
    conflict: "the last size wins",
    invalid: async (w) => w.stub(Tasks).resizePty({ containerId: await w.task(), execId: "none" }, w.call()),
  },
  "containerd.services.tasks.v1.Tasks/CloseIO": {
    success: async (w) => w.stub(Tasks).closeIO({ containerId: await w.task(), stdin: true }, w.call()),
    missing: async (w) => w.stub(Tasks).closeIO({ containerId: "none", stdin: true }, w.call()),
    conflict: "closing twice is no error",
    invalid: async (w) => w.stub(Tasks).closeIO({ containerId: await w.task(), execId: "none", stdin: true }, w.call()),
  },
  "containerd.services.tasks.v1.Tasks/Pause": {
    success: async (w) => {
      const containerId = await w.task();
      await w.stub(Tasks).pause({ containerId }, w.call());
      return w.stub(Tasks).resume({ containerId }, w.call());
    },
    missing: async (w) => w.stub(Tasks).pause({ containerId: "none" }, w.call()),
    conflict: async (w) => w.stub(Tasks).pause({ containerId: await stopped(w) }, w.call()),
    invalid: async (w) => w.stub(Tasks).pause({ containerId: "none" }, w.call({ namespace: "" })),
  },
  "containerd.services.tasks.v1.Tasks/Resume": {
    success: "see Pause",
    missing: async (w) => w.stub(Tasks).resume({ containerId: "none" }, w.call()),
    conflict: async (w) => w.stub(Tasks).resume({ containerId: await stopped(w) }, w.call()),
    invalid: async (w) => w.stub(Tasks).resume({ containerId: "none" }, w.call({ namespace: "" })),
  },
  "containerd.services.tasks.v1.Tasks/ListPids": {
    success: async (w) => w.stub(Tasks).listPids({ containerId: await w.task() }, w.call()),
    missing: async (w) => w.stub(Tasks).listPids({ containerId: "none" }, w.call()),
    conflict: READS,
    invalid: async (w) => w.stub(Tasks).listPids({ containerId: "none" }, w.call({ namespace: "" })),
  },
  "containerd.services.tasks.v1.Tasks/Checkpoint": {
    success: "it needs CRIU",
    missing: async (w) => w.stub(Tasks).checkpoint({ containerId: "none" }, w.call()),
    conflict: "it needs CRIU",
    invalid: async (w) => w.stub(Tasks).checkpoint({ containerId: "none" }, w.call({ namespace: "" })),
  },
  "containerd.services.tasks.v1.Tasks/Update": {
    success: async (w) => w.stub(Tasks).update({ containerId: await w.task(), resources: RESOURCES }, w.call()),
    missing: async (w) => w.stub(Tasks).update({ containerId: "none", resources: RESOURCES }, w.call()),
    conflict: "the last writer wins",
    invalid: async (w) =>
      w.stub(Tasks).update({ containerId: "none", resources: RESOURCES }, w.call({ namespace: "" })),
  },
  "containerd.services.tasks.v1.Tasks/Metrics": {
    success: async (w) => w.stub(Tasks).metrics({ filters: [`id==${await w.task()}`] }, w.call()),
    missing: "a filter that fits nothing gives nothing",
    conflict: READS,
    invalid: async (w) => w.stub(Tasks).metrics({ filters: [BAD_FILTER] }, w.call()),
  },
  "containerd.services.tasks.v1.Tasks/Wait": {
    success: async (w) => w.stub(Tasks).wait({ containerId: await w.task(["true"]) }, w.call()),
    missing: async (w) => w.stub(Tasks).wait({ containerId: "none" }, w.call()),
    conflict: READS,
    invalid: async (w) => w.stub(Tasks).wait({ containerId: await w.task(), execId: "none" }, w.call()),
  },
};

const others: Readonly<Record<string, MethodCases>> = {
  "containerd.services.version.v1.Version/Version": {
    success: async (w) => w.stub(Version).version({}, w.call()),
    missing: ALL,
    conflict: READS,
    invalid: "it takes nothing",
  },
  "grpc.health.v1.Health/Check": {
    success: async (w) => w.stub(Health).check({}, w.call()),
    missing: async (w) => w.stub(Health).check({ service: "none" }, w.call()),
    conflict: READS,
    invalid: FREE_TEXT,
  },
  "grpc.health.v1.Health/Watch": {
    success: async (w) => w.stub(Health).watch({}, w.call())[Symbol.asyncIterator]().next(),
    missing: async (w) => w.stub(Health).watch({ service: "none" }, w.call())[Symbol.asyncIterator]().next(),
    conflict: READS,
    invalid: FREE_TEXT,
  },
};

/** Every method by its full name. */
export const CASES: Readonly<Record<string, MethodCases>> = {
  ...containers,
  ...content,
  ...diff,
  ...events,
  ...images,
  ...introspection,
  ...leases,
  ...namespaces,
  ...SANDBOX_CASES,
  ...snapshots,
  ...tasks,
  ...others,
};
