import { leaseToProto } from "@stevedore/convert/leases";
import type { LeaseManager } from "@stevedore/core";
import type { Leases } from "@stevedore/wire/gen/containerd/services/leases/v1/leases_pb";
import type { ServiceImpl } from "@stevedore/wire/rpc/index";
import { requestContext, required } from "./request.ts";

/** The leases service. */
export function leasesService({ leases }: { readonly leases: LeaseManager }): ServiceImpl<typeof Leases> {
  return {
    create: async ({ id, labels }, call) => ({
      lease: leaseToProto(await leases.create(requestContext(call), { id, labels })),
    }),
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
