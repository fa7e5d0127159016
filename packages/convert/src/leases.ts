import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Lease as CoreLease } from "@stevedore/core";
import type { Lease, LeaseSchema } from "@stevedore/wire/gen/containerd/services/leases/v1/leases_pb";
import { dateFromProto, timestampToProto } from "./timestamps.ts";

/** A lease as a message. */
export function leaseToProto({ id, createdAt, labels }: CoreLease): MessageInitShape<typeof LeaseSchema> {
  return { id, createdAt: timestampToProto(createdAt), labels: { ...labels } };
}

/** A lease out of a message. */
export function leaseFromProto({ id, createdAt, labels }: Lease): CoreLease {
  return { id, createdAt: dateFromProto(createdAt), labels: { ...labels } };
}
