import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ContentInfo, IngestStatus } from "@stevedore/core";
import type {
  Info,
  InfoSchema,
  Status,
  StatusSchema,
} from "@stevedore/wire/gen/containerd/services/content/v1/content_pb";
import { dateFromProto, timestampToProto } from "./timestamps.ts";

/** A blob's record as a message. */
export function contentInfoToProto(info: ContentInfo): MessageInitShape<typeof InfoSchema> {
  return {
    digest: info.digest,
    size: BigInt(info.size),
    createdAt: timestampToProto(info.createdAt),
    updatedAt: timestampToProto(info.updatedAt),
    labels: { ...info.labels },
  };
}

/** A blob's record out of a message. */
export function contentInfoFromProto(info: Info): ContentInfo {
  return {
    digest: info.digest,
    size: Number(info.size),
    createdAt: dateFromProto(info.createdAt),
    updatedAt: dateFromProto(info.updatedAt),
    labels: { ...info.labels },
  };
}

/** An ingest as a message. */
export function ingestStatusToProto(status: IngestStatus): MessageInitShape<typeof StatusSchema> {
  return {
    ref: status.ref,
    offset: BigInt(status.offset),
    total: BigInt(status.total),
    expected: status.expected,
    startedAt: timestampToProto(status.startedAt),
    updatedAt: timestampToProto(status.updatedAt),
  };
}

/** An ingest out of a message. */
export function ingestStatusFromProto(status: Status): IngestStatus {
  return {
    ref: status.ref,
    offset: Number(status.offset),
    total: Number(status.total),
    expected: status.expected,
    startedAt: dateFromProto(status.startedAt),
    updatedAt: dateFromProto(status.updatedAt),
  };
}
