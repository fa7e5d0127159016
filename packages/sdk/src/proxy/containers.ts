import { containerFromProto, containerToProto } from "@stevedore/convert/containers";
import type { ContainerStore } from "@stevedore/core";
import type { Transport } from "@stevedore/wire/rpc/index";
import { callOptions, lazyClient, present } from "./call.ts";

/** The container store of a daemon. */
export function containersProxy(transport: Transport): ContainerStore {
  const containers = lazyClient(
    transport,
    async () => (await import("@stevedore/wire/gen/light/containerd/services/containers/v1/containers_pb")).Containers,
  );
  return {
    get: async (context, id) => {
      const { container } = await (await containers()).get({ id }, callOptions(context));
      return containerFromProto(present(container, "container"));
    },
    list: async (context, filters) => {
      const answer = await (await containers()).list({ filters: [...filters] }, callOptions(context));
      return answer.containers.map(containerFromProto);
    },
    create: async (context, container) => {
      const answer = await (await containers()).create(
        { container: containerToProto(container) },
        callOptions(context),
      );
      return containerFromProto(present(answer.container, "container"));
    },
    update: async (context, container, fields) => {
      const answer = await (await containers()).update(
        {
          container: containerToProto(container),
          ...(fields.length === 0 ? {} : { updateMask: { paths: [...fields] } }),
        },
        callOptions(context),
      );
      return containerFromProto(present(answer.container, "container"));
    },
    delete: async (context, id) => {
      await (await containers()).delete({ id }, callOptions(context));
    },
  };
}
