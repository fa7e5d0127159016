import { leaseToProto } from "@stevedore/convert/leases";
import type { LeaseManager } from "@stevedore/core";
import type { Leases } from "@stevedore/wire/gen/containerd/services/leases/v1/leases_pb";
import type { ServiceImpl } from "@stevedore/wire/rpc/index";
import { requestContext, required } from "./request.ts";

const NANOS_PER_SECOND = 1_000_000_000n;

/** An id for a lease whose client named none, of the peer's form: nanoseconds of the clock, then three random bytes. */
function randomLeaseId(): string {
  const nanos = process.hrtime.bigint() % NANOS_PER_SECOND;
  return `${nanos}-${Buffer.from(crypto.getRandomValues(new Uint8Array(3))).toString("base64url")}`;
}

/** The leases service. */
export function leasesService({ leases }: { readonly leases: LeaseManager }): ServiceImpl<typeof Leases> {
  return {
    create: async ({ id, labels }, call) => {
      const named = id === "" ? randomLeaseId() : id;
      return { lease: leaseToProto(await leases.create(requestContext(call), { id: named, labels })) };
    },
    delete: async ({ id, sync }, call) => {
      await leases.delete(requestContext(call), id, { sync });
      return {};
    },
    list: async ({ filters }, call) => ({
      leases: (await leases.list(requestContext(call), filters)).map(leaseToProto),
    }),
    addResource: async ({ id, resource }, call) => {
      await leases.addResource(requestContext(call), id, required(resource, "resource"));
      return {};
    },
    deleteResource: async ({ id, resource }, call) => {
      await leases.deleteResource(requestContext(call), id, required(resource, "resource"));
      return {};
    },
    listResources: async ({ id }, call) => ({
      resources: (await leases.listResources(requestContext(call), id)).map((resource) => ({ ...resource })),
    }),
  };
}
