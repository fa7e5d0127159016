import { expect, test } from "bun:test";
import type { Message } from "@bufbuild/protobuf";
import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import type { GenMessage } from "@bufbuild/protobuf/codegenv2";
import { TimestampSchema } from "@bufbuild/protobuf/wkt";
import { ContainerSchema } from "@stevedore/wire/gen/containerd/services/containers/v1/containers_pb";
import {
  InfoSchema as ContentInfoSchema,
  StatusSchema,
} from "@stevedore/wire/gen/containerd/services/content/v1/content_pb";
import { ImageSchema } from "@stevedore/wire/gen/containerd/services/images/v1/images_pb";
import { LeaseSchema } from "@stevedore/wire/gen/containerd/services/leases/v1/leases_pb";
import { InfoSchema as SnapshotInfoSchema } from "@stevedore/wire/gen/containerd/services/snapshots/v1/snapshots_pb";
import { DescriptorSchema } from "@stevedore/wire/gen/containerd/types/descriptor_pb";
import { EnvelopeSchema } from "@stevedore/wire/gen/containerd/types/event_pb";
import { MountSchema } from "@stevedore/wire/gen/containerd/types/mount_pb";
import { ProcessSchema } from "@stevedore/wire/gen/containerd/types/task/task_pb";
import {
  containerFromProto,
  containerToProto,
  contentInfoFromProto,
  contentInfoToProto,
  dateFromProto,
  descriptorFromProto,
  descriptorToProto,
  envelopeFromProto,
  envelopeToProto,
  imageFromProto,
  imageToProto,
  ingestStatusFromProto,
  ingestStatusToProto,
  leaseFromProto,
  leaseToProto,
  mountFromProto,
  mountToProto,
  newImageFromProto,
  optionalDateFromProto,
  processFromProto,
  processToProto,
  snapshotInfoFromProto,
  snapshotInfoToProto,
  timestampToProto,
} from "./index.ts";

/** A value through a message, its bytes, and back. */
function over<M extends Message>(schema: GenMessage<M>, init: MessageInitShape<GenMessage<M>>): M {
  return fromBinary(schema, toBinary(schema, create(schema, init)));
}

const at = (ms: number): Date => new Date(ms);
const labels = { "containerd.io/gc.ref.content.0": "sha256:aa", é: "ü" };

test("what core has survives the wire", () => {
  const target = { mediaType: "a/b", digest: "sha256:00", size: 2 ** 52, annotations: { k: "v" } };
  expect(descriptorFromProto(over(DescriptorSchema, descriptorToProto(target)))).toEqual(target);
  const image = { name: "docker.io/library/a:b", labels, target, createdAt: at(1), updatedAt: at(1_700_000_000_123) };
  expect(imageFromProto(over(ImageSchema, imageToProto(image)))).toEqual(image);
  const options = { typeUrl: "containerd.runc.v1.Options", value: new Uint8Array([8, 1]) };
  const container = {
    id: "c",
    labels,
    image: "i",
    runtime: { name: "io.containerd.runc.v2", options },
    spec: { typeUrl: "x", value: Buffer.from('{"a": 18446744073709551615,  "z":1}') },
    snapshotter: "overlayfs",
    snapshotKey: "k",
    sandbox: "s",
    extensions: { e: options },
    createdAt: at(5),
    updatedAt: at(6),
  };
  const back = containerFromProto(over(ContainerSchema, containerToProto(container)));
  expect(back).toEqual({ ...container, spec: { typeUrl: "x", value: new Uint8Array(container.spec.value) } });
  const info = { digest: "sha256:00", size: 0, createdAt: at(0), updatedAt: at(-1), labels };
  expect(contentInfoFromProto(over(ContentInfoSchema, contentInfoToProto(info)))).toEqual(info);
  const status = { ref: "r", offset: 1, total: 2, expected: "", startedAt: at(1), updatedAt: at(2) };
  expect(ingestStatusFromProto(over(StatusSchema, ingestStatusToProto(status)))).toEqual(status);
  const lease = { id: "l", createdAt: at(9), labels };
  expect(leaseFromProto(over(LeaseSchema, leaseToProto(lease)))).toEqual(lease);
  const mount = { type: "bind", source: "/a", target: "b", options: ["rbind", "ro"] };
  expect(mountFromProto(over(MountSchema, mountToProto(mount)))).toEqual(mount);
  for (const kind of ["view", "active", "committed"] as const) {
    const snapshot = { kind, name: "n", parent: "p", labels, createdAt: at(3), updatedAt: at(4) };
    expect(snapshotInfoFromProto(over(SnapshotInfoSchema, snapshotInfoToProto(snapshot)))).toEqual(snapshot);
  }
  for (const state of ["unknown", "created", "running", "stopped", "paused", "pausing"] as const) {
    const io = { stdin: "", stdout: "/f", stderr: "", terminal: true };
    const process = { containerId: "c", id: "e", pid: 7, status: state, io, exitStatus: 137, exitedAt: at(8) };
    expect(processFromProto(over(ProcessSchema, processToProto(process)))).toEqual(process);
  }
  const envelope = {
    timestamp: at(1_700_000_000_123),
    nanos: 123_456_789,
    namespace: "n",
    topic: "/a/b",
    event: options,
  };
  expect(envelopeFromProto(over(EnvelopeSchema, envelopeToProto(envelope)))).toEqual(envelope);
});

test("moments before the epoch, to the nanosecond, and none at all", () => {
  expect(timestampToProto(at(-1))).toEqual({ seconds: -1n, nanos: 999_000_000 });
  expect(timestampToProto(at(1500), 500_000_001)).toEqual({ seconds: 1n, nanos: 500_000_001 });
  expect(dateFromProto(create(TimestampSchema, { seconds: -1n, nanos: 999_999_999 }))).toEqual(at(-1));
  expect(optionalDateFromProto(undefined)).toBeUndefined();
  expect(optionalDateFromProto(create(TimestampSchema, { seconds: -62_135_596_800n }))).toBeUndefined();
});

test("what a client leaves out", () => {
  expect(imageFromProto(over(ImageSchema, { name: "a" })).target).toEqual({ mediaType: "", digest: "", size: 0 });
  expect(newImageFromProto(over(ImageSchema, { name: "a" }))).not.toHaveProperty("createdAt");
  const bare = containerFromProto(over(ContainerSchema, { id: "c" }));
  expect(bare.runtime).toEqual({ name: "" });
  expect(bare).not.toHaveProperty("spec");
  expect(processFromProto(over(ProcessSchema, {}))).not.toHaveProperty("exitedAt");
  expect(envelopeFromProto(over(EnvelopeSchema, {})).event).toEqual({ typeUrl: "", value: new Uint8Array() });
});
