import type { Namespace, NamespaceStore } from "@stevedore/core";
import type { Transport } from "@stevedore/wire/rpc/index";
import { callOptions, lazyClient, present } from "./call.ts";

function namespaceOf({ name, labels }: { readonly name: string; readonly labels: Record<string, string> }): Namespace {
  return { name, labels: { ...labels } };
}

/** The namespaces of a daemon. */
export function namespacesProxy(transport: Transport): NamespaceStore {
  const namespaces = lazyClient(
    transport,
    async () => (await import("@stevedore/wire/gen/light/containerd/services/namespaces/v1/namespace_pb")).Namespaces,
  );
  return {
    get: async (context, name) => {
      const { namespace } = await (await namespaces()).get({ name }, callOptions(context));
      return namespaceOf(present(namespace, "namespace"));
    },
    list: async (context) => {
      const answer = await (await namespaces()).list({}, callOptions(context));
      return answer.namespaces.map(namespaceOf);
    },
    create: async (context, { name, labels }) => {
      const { namespace } = await (await namespaces()).create(
        { namespace: { name, labels: { ...labels } } },
        callOptions(context),
      );
      return namespaceOf(present(namespace, "namespace"));
    },
    update: async (context, { name, labels }, fields) => {
      const { namespace } = await (await namespaces()).update(
        {
          namespace: { name, labels: { ...labels } },
          ...(fields.length === 0 ? {} : { updateMask: { paths: [...fields] } }),
        },
        callOptions(context),
      );
      return namespaceOf(present(namespace, "namespace"));
    },
    delete: async (context, name) => {
      await (await namespaces()).delete({ name }, callOptions(context));
    },
  };
}
