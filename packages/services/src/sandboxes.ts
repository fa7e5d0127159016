import { sandboxFromProto, sandboxToProto } from "@stevedore/convert/sandboxes";
import type { SandboxStore } from "@stevedore/core";
import type { Store } from "@stevedore/wire/gen/containerd/services/sandbox/v1/sandbox_pb";
import type { ServiceImpl } from "@stevedore/wire/rpc/index";
import { requestContext, required } from "./request.ts";

/** The service of sandboxes' records. */
export function sandboxesService({ sandboxes }: { readonly sandboxes: SandboxStore }): ServiceImpl<typeof Store> {
  return {
    create: async ({ sandbox }, call) => {
      const wanted = sandboxFromProto(required(sandbox, "sandbox"));
      return { sandbox: sandboxToProto(await sandboxes.create(requestContext(call), wanted)) };
    },
    update: async ({ sandbox, fields }, call) => {
      const wanted = sandboxFromProto(required(sandbox, "sandbox"));
      return { sandbox: sandboxToProto(await sandboxes.update(requestContext(call), wanted, fields)) };
    },
    list: async ({ filters }, call) => ({
      list: (await sandboxes.list(requestContext(call), filters)).map(sandboxToProto),
    }),
    get: async ({ sandboxId }, call) => ({
      sandbox: sandboxToProto(await sandboxes.get(requestContext(call), sandboxId)),
    }),
    delete: async ({ sandboxId }, call) => {
      await sandboxes.delete(requestContext(call), sandboxId);
      return {};
    },
  };
}
