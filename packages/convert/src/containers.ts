import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Container as CoreContainer, NewContainer } from "@stevedore/core";
import type { Container, ContainerSchema } from "@stevedore/wire/gen/containerd/services/containers/v1/containers_pb";
import { anyFromProto, anyMapFromProto, anyMapToProto, anyToProto } from "./any.ts";
import { dateFromProto, timestampToProto } from "./timestamps.ts";

/** A container as a message; times that are not known are left out. */
export function containerToProto(
  container: NewContainer & Partial<Pick<CoreContainer, "createdAt" | "updatedAt">>,
): MessageInitShape<typeof ContainerSchema> {
  const { runtime, spec, createdAt, updatedAt } = container;
  return {
    id: container.id,
    labels: { ...container.labels },
    image: container.image,
    runtime: {
      name: runtime.name,
      ...(runtime.options === undefined ? {} : { options: anyToProto(runtime.options) }),
    },
    ...(spec === undefined ? {} : { spec: anyToProto(spec) }),
    snapshotter: container.snapshotter,
    snapshotKey: container.snapshotKey,
    sandbox: container.sandbox,
    extensions: anyMapToProto(container.extensions),
    ...(createdAt === undefined ? {} : { createdAt: timestampToProto(createdAt) }),
    ...(updatedAt === undefined ? {} : { updatedAt: timestampToProto(updatedAt) }),
  };
}

/** A container out of a message; a missing runtime has the name "". */
export function containerFromProto(container: Container): CoreContainer {
  const { runtime, spec } = container;
  return {
    id: container.id,
    labels: { ...container.labels },
    image: container.image,
    runtime: {
      name: runtime?.name ?? "",
      ...(runtime?.options === undefined ? {} : { options: anyFromProto(runtime.options) }),
    },
    ...(spec === undefined ? {} : { spec: anyFromProto(spec) }),
    snapshotter: container.snapshotter,
    snapshotKey: container.snapshotKey,
    sandbox: container.sandbox,
    extensions: anyMapFromProto(container.extensions),
    createdAt: dateFromProto(container.createdAt),
    updatedAt: dateFromProto(container.updatedAt),
  };
}
