import type { MessageInitShape } from "@bufbuild/protobuf";
import type { SnapshotInfo, SnapshotKind } from "@stevedore/core";
import type { Info, InfoSchema } from "@stevedore/wire/gen/containerd/services/snapshots/v1/snapshots_pb";
import { dateFromProto, timestampToProto } from "./timestamps.ts";

/** `Kind` of the protocol; 0 is unknown. */
const KIND_NUMBERS = { view: 1, active: 2, committed: 3 } as const satisfies Record<SnapshotKind, number>;

function kindFromProto(kind: number): SnapshotKind {
  switch (kind) {
    case KIND_NUMBERS.view:
      return "view";
    case KIND_NUMBERS.active:
      return "active";
    default:
      return "committed";
  }
}

/** A snapshot as a message. */
export function snapshotInfoToProto(info: SnapshotInfo): MessageInitShape<typeof InfoSchema> {
  return {
    name: info.name,
    parent: info.parent,
    kind: KIND_NUMBERS[info.kind],
    createdAt: timestampToProto(info.createdAt),
    updatedAt: timestampToProto(info.updatedAt),
    labels: { ...info.labels },
  };
}

/** A snapshot out of a message; an unknown kind counts as committed. */
export function snapshotInfoFromProto(info: Info): SnapshotInfo {
  return {
    kind: kindFromProto(info.kind),
    name: info.name,
    parent: info.parent,
    labels: { ...info.labels },
    createdAt: dateFromProto(info.createdAt),
    updatedAt: dateFromProto(info.updatedAt),
  };
}
