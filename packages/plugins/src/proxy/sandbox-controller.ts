import {
  createSandboxToProto,
  sandboxExitFromProto,
  sandboxInstanceFromProto,
  sandboxMetricFromProto,
  sandboxPlatformFromProto,
  sandboxStatusFromProto,
  sandboxToProto,
} from "@stevedore/convert/sandboxes";
import type { SandboxController } from "@stevedore/core";
import { Controller } from "@stevedore/wire/gen/containerd/services/sandbox/v1/sandbox_pb";
import { createClient, type Transport } from "@stevedore/wire/rpc/index";
import { callOptions } from "./request.ts";

/** The sandbox controller `name` of another process, which knows it by the same name. The transport stays the caller's. */
export function createProxySandboxController(options: {
  readonly transport: Transport;
  readonly name: string;
}): SandboxController {
  const { name: sandboxer } = options;
  const client = createClient(Controller, options.transport);
  return {
    announcesExits: false,
    create: async (context, request) => {
      await client.create(createSandboxToProto(request, sandboxer), callOptions(context));
    },
    start: async (context, sandboxId) =>
      sandboxInstanceFromProto(sandboxId, await client.start({ sandboxId, sandboxer }, callOptions(context))),
    platform: async (context, sandboxId) =>
      sandboxPlatformFromProto((await client.platform({ sandboxId, sandboxer }, callOptions(context))).platform),
    stop: async (context, sandboxId, { timeoutSecs }) => {
      await client.stop({ sandboxId, sandboxer, timeoutSecs }, callOptions(context));
    },
    wait: async (context, sandboxId) =>
      sandboxExitFromProto(await client.wait({ sandboxId, sandboxer }, callOptions(context))),
    status: async (context, sandboxId, { verbose }) =>
      sandboxStatusFromProto(sandboxId, await client.status({ sandboxId, sandboxer, verbose }, callOptions(context))),
    shutdown: async (context, sandboxId) => {
      await client.shutdown({ sandboxId, sandboxer }, callOptions(context));
    },
    metrics: async (context, sandboxId) =>
      sandboxMetricFromProto((await client.metrics({ sandboxId, sandboxer }, callOptions(context))).metrics),
    update: async (context, sandboxId, sandbox, fields) => {
      const request = { sandboxId, sandboxer, sandbox: sandboxToProto(sandbox), fields: [...fields] };
      await client.update(request, callOptions(context));
    },
  };
}
