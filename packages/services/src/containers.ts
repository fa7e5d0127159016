import type { RequestContext } from "@stevedore/base";
import { anyToProto } from "@stevedore/convert/any";
import { containerFromProto, containerToProto } from "@stevedore/convert/containers";
import type { Container, ContainerStore, EventExchange, FieldMask, NewContainer } from "@stevedore/core";
import {
  ContainerCreateSchema,
  ContainerDeleteSchema,
  ContainerUpdateSchema,
} from "@stevedore/wire/gen/containerd/events/container_pb";
import type { Containers } from "@stevedore/wire/gen/containerd/services/containers/v1/containers_pb";
import type { ServiceImpl } from "@stevedore/wire/rpc/index";
import { announcing, pathsOf, requestContext, required } from "./request.ts";

/** Changes a container and announces it. */
export async function updateContainer(
  at: { readonly containers: ContainerStore; readonly events: EventExchange; readonly context: RequestContext },
  wanted: NewContainer,
  fields: FieldMask,
): Promise<Container> {
  return announcing(
    {
      events: at.events,
      context: at.context,
      topic: "/containers/update",
      schema: ContainerUpdateSchema,
      known: { id: wanted.id },
      fields: {
        [ContainerUpdateSchema.field.image.number]: "image",
        [ContainerUpdateSchema.field.labels.number]: "labels",
        [ContainerUpdateSchema.field.snapshotKey.number]: "snapshotKey",
      },
    },
    (context) => at.containers.update(context, wanted, fields),
    ({ id, image, labels, snapshotKey }) => ({ id, image, labels: { ...labels }, snapshotKey }),
  );
}

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
      const wanted = containerFromProto(required(container, "container"));
      const { name, options } = wanted.runtime;
      const told = {
        id: wanted.id,
        image: wanted.image,
        runtime: { name, ...(options === undefined ? {} : { options: anyToProto(options) }) },
      };
      const created = await announcing(
        {
          events,
          context: requestContext(call),
          topic: "/containers/create",
          schema: ContainerCreateSchema,
          known: told,
        },
        (context) => containers.create(context, wanted),
      );
      return { container: containerToProto(created) };
    },
    update: async ({ container, updateMask }, call) => {
      const wanted = containerFromProto(required(container, "container"));
      const context = requestContext(call);
      const updated = await updateContainer({ containers, events, context }, wanted, pathsOf(updateMask));
      return { container: containerToProto(updated) };
    },
    delete: async ({ id }, call) => {
      await announcing(
        {
          events,
          context: requestContext(call),
          topic: "/containers/delete",
          schema: ContainerDeleteSchema,
          known: { id },
        },
        (context) => containers.delete(context, id),
      );
      return {};
    },
  };
}
