import { leaseFromProto } from "@stevedore/convert/leases";
import type { LeaseManager } from "@stevedore/core";
import type { Transport } from "@stevedore/wire/rpc/index";
import { callOptions, lazyClient, present } from "./call.ts";

/** The leases of a daemon. */
export function leasesProxy(transport: Transport): LeaseManager {
  const leases = lazyClient(
    transport,
    async () => (await import("@stevedore/wire/gen/light/containerd/services/leases/v1/leases_pb")).Leases,
  );
  return {
    create: async (context, { id, labels }) => {
      const { lease } = await (await leases()).create({ id, labels: { ...labels } }, callOptions(context));
      return leaseFromProto(present(lease, "lease"));
    },
    delete: async (context, id, options = {}) => {
      await (await leases()).delete({ id, sync: options.sync ?? false }, callOptions(context));
    },
    list: async (context, filters) => {
      const answer = await (await leases()).list({ filters: [...filters] }, callOptions(context));
      return answer.leases.map(leaseFromProto);
    },
    addResource: async (context, id, resource) => {
      await (await leases()).addResource({ id, resource: { ...resource } }, callOptions(context));
    },
    deleteResource: async (context, id, resource) => {
      await (await leases()).deleteResource({ id, resource: { ...resource } }, callOptions(context));
    },
    listResources: async (context, id) => {
      const { resources } = await (await leases()).listResources({ id }, callOptions(context));
      return resources.map(({ id, type }) => ({ id, type }));
    },
  };
}
