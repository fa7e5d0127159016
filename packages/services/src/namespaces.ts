import { isErrorClass } from "@stevedore/base";
import type { EventExchange, Namespace, NamespaceStore } from "@stevedore/core";
import {
  NamespaceCreateSchema,
  NamespaceDeleteSchema,
  NamespaceUpdateSchema,
} from "@stevedore/wire/gen/containerd/events/namespace_pb";
import type { Namespaces } from "@stevedore/wire/gen/containerd/services/namespaces/v1/namespace_pb";
import type { ServiceImpl } from "@stevedore/wire/rpc/index";
import { announcing, pathsOf, requestContext, required } from "./request.ts";

async function whenFound<T>(ask: () => Promise<T>): Promise<T | undefined> {
  try {
    return await ask();
  } catch (error) {
    if (isErrorClass(error, "not-found")) return undefined;
    throw error;
  }
}

function shown({ name, labels }: Namespace) {
  return { name, labels: { ...labels } };
}

/** The namespaces service. Its events are announced in the namespace they are about. */
export function namespacesService(of: {
  readonly namespaces: NamespaceStore;
  readonly events: EventExchange;
}): ServiceImpl<typeof Namespaces> {
  const { namespaces, events } = of;
  return {
    get: async ({ name }, call) => {
      // Clients ask for labels of namespaces that nobody has made yet; the peer answers that there are none.
      const labels = await whenFound(async () => (await namespaces.get(requestContext(call), name)).labels);
      return { namespace: { name, labels: { ...labels } } };
    },
    list: async (_request, call) => {
      const all = await namespaces.list(requestContext(call));
      return { namespaces: all.map(({ name, labels }) => ({ name, labels: { ...labels } })) };
    },
    create: async ({ namespace }, call) => {
      const { name, labels } = required(namespace, "namespace");
      const created = await announcing(
        {
          events,
          context: { ...requestContext(call), namespace: name },
          topic: "/namespaces/create",
          schema: NamespaceCreateSchema,
          known: { name },
          fields: { [NamespaceCreateSchema.field.labels.number]: "labels" },
        },
        (context) => namespaces.create(context, { name, labels }),
        shown,
      );
      return { namespace: shown(created) };
    },
    update: async ({ namespace, updateMask }, call) => {
      const { name, labels } = required(namespace, "namespace");
      const fields = pathsOf(updateMask);
      const updated = await announcing(
        {
          events,
          context: { ...requestContext(call), namespace: name },
          topic: "/namespaces/update",
          schema: NamespaceUpdateSchema,
          known: { name },
          fields: { [NamespaceUpdateSchema.field.labels.number]: "labels" },
        },
        async (context) =>
          (await whenFound(async () => namespaces.update(context, { name, labels }, fields))) ??
          // As in the peer, labels make the namespace.
          (await namespaces.create(context, { name, labels })),
        shown,
      );
      return { namespace: shown(updated) };
    },
    delete: async ({ name }, call) => {
      await announcing(
        {
          events,
          context: { ...requestContext(call), namespace: name },
          topic: "/namespaces/delete",
          schema: NamespaceDeleteSchema,
          known: { name },
        },
        (context) => namespaces.delete(context, name),
      );
      return {};
    },
  };
}
