import { anyToProto } from "@stevedore/convert/any";
import { containerFromProto, containerToProto } from "@stevedore/convert/containers";
import type { ContainerStore, EventExchange } from "@stevedore/core";
import {
  ContainerCreateSchema,
  ContainerDeleteSchema,
  ContainerUpdateSchema,
} from "@stevedore/wire/gen/containerd/events/container_pb";
import type { Containers } from "@stevedore/wire/gen/containerd/services/containers/v1/containers_pb";
import type { ServiceImpl } from "@stevedore/wire/rpc/index";
import { pathsOf, publishEvent, requestContext, required } from "./request.ts";

/** The containers service. */
export function containersService(of: {
  readonly containers: ContainerStore;
  readonly events: EventExchange;
}): ServiceImpl<typeof Containers> {
  const { containers, events } = of;
  return {
    get: async ({ id }, call) => ({ container: containerToProto(await containers.get(requestContext(call), id)) }),
    list: async ({ filters }, call) => ({
      containers: (await containers.list(requestContext(call), filters)).map(containerToProto),
    }),
    listStream: async function* ({ filters }, call) {
      for (const container of await containers.list(requestContext(call), filters)) {
        yield { container: containerToProto(container) };
      }
    },
    create: async ({ container }, call) => {
      const context = requestContext(call);
      const created = await containers.create(context, containerFromProto(required(container, "container")));
      const { name, options } = created.runtime;
      await publishEvent({ events, context, topic: "/containers/create" }, ContainerCreateSchema, {
        id: created.id,
        image: created.image,
        runtime: { name, ...(options === undefined ? {} : { options: anyToProto(options) }) },
      });
      return { container: containerToProto(created) };
    },
    update: async ({ container, updateMask }, call) => {
      const context = requestContext(call);
      const wanted = containerFromProto(required(container, "container"));
      const updated = await containers.update(context, wanted, pathsOf(updateMask));
      await publishEvent({ events, context, topic: "/containers/update" }, ContainerUpdateSchema, {
        id: updated.id,
        image: updated.image,
        labels: { ...updated.labels },
        snapshotKey: updated.snapshotKey,
      });
      return { container: containerToProto(updated) };
    },
    delete: async ({ id }, call) => {
      const context = requestContext(call);
      await containers.delete(context, id);
      await publishEvent({ events, context, topic: "/containers/delete" }, ContainerDeleteSchema, { id });
      return {};
    },
  };
}
