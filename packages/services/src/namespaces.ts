import { isErrorClass } from "@stevedore/base";
import type { EventExchange, NamespaceStore } from "@stevedore/core";
import {
  NamespaceCreateSchema,
  NamespaceDeleteSchema,
  NamespaceUpdateSchema,
} from "@stevedore/wire/gen/containerd/events/namespace_pb";
import type { Namespaces } from "@stevedore/wire/gen/containerd/services/namespaces/v1/namespace_pb";
import type { ServiceImpl } from "@stevedore/wire/rpc/index";
import { pathsOf, publishEvent, requestContext, required } from "./request.ts";

async function whenFound<T>(ask: () => Promise<T>): Promise<T | undefined> {
  try {
    return await ask();
  } catch (error) {
    if (isErrorClass(error, "not-found")) return undefined;
    throw error;
  }
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
      const context = { ...requestContext(call), namespace: name };
      const created = await namespaces.create(context, { name, labels });
      const shown = { name, labels: { ...created.labels } };
      await publishEvent({ events, context, topic: "/namespaces/create" }, NamespaceCreateSchema, shown);
      return { namespace: shown };
    },
    update: async ({ namespace, updateMask }, call) => {
      const { name, labels } = required(namespace, "namespace");
      const context = { ...requestContext(call), namespace: name };
      const fields = pathsOf(updateMask);
      const updated =
        (await whenFound(async () => namespaces.update(context, { name, labels }, fields))) ??
        // As in the peer, labels make the namespace.
        (await namespaces.create(context, { name, labels }));
      const shown = { name, labels: { ...updated.labels } };
      await publishEvent({ events, context, topic: "/namespaces/update" }, NamespaceUpdateSchema, shown);
      return { namespace: shown };
    },
    delete: async ({ name }, call) => {
      const context = { ...requestContext(call), namespace: name };
      await namespaces.delete(context, name);
      await publishEvent({ events, context, topic: "/namespaces/delete" }, NamespaceDeleteSchema, { name });
      return {};
    },
  };
}
