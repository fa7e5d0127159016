import {
  createSandboxToProto,
  sandboxExitFromProto,
  sandboxFromProto,
  sandboxInstanceFromProto,
  sandboxMetricFromProto,
  sandboxPlatformFromProto,
  sandboxStatusFromProto,
  sandboxToProto,
} from "@stevedore/convert/sandboxes";
import type { SandboxController, SandboxStore } from "@stevedore/core";
import type { Transport } from "@stevedore/wire/rpc/index";
import { callOptions, lazyClient, present } from "./call.ts";

const services = () => import("@stevedore/wire/gen/light/containerd/services/sandbox/v1/sandbox_pb");

/** The sandbox store of a daemon. */
export function sandboxesProxy(transport: Transport): SandboxStore {
  const store = lazyClient(transport, async () => (await services()).Store);
  return {
    get: async (context, sandboxId) => {
      const { sandbox } = await (await store()).get({ sandboxId }, callOptions(context));
      return sandboxFromProto(present(sandbox, "sandbox"));
    },
    list: async (context, filters) => {
      const { list } = await (await store()).list({ filters: [...filters] }, callOptions(context));
      return list.map(sandboxFromProto);
    },
    create: async (context, sandbox) => {
      const answer = await (await store()).create({ sandbox: sandboxToProto(sandbox) }, callOptions(context));
      return sandboxFromProto(present(answer.sandbox, "sandbox"));
    },
    update: async (context, sandbox, fields) => {
      const request = { sandbox: sandboxToProto(sandbox), fields: [...fields] };
      const answer = await (await store()).update(request, callOptions(context));
      return sandboxFromProto(present(answer.sandbox, "sandbox"));
    },
    delete: async (context, sandboxId) => {
      await (await store()).delete({ sandboxId }, callOptions(context));
    },
  };
}

/** A sandbox controller of a daemon, by name. */
export function sandboxControllerProxy(transport: Transport, sandboxer: string): SandboxController {
  const controller = lazyClient(transport, async () => (await services()).Controller);
  return {
    announcesExits: true,
    create: async (context, request) => {
      await (await controller()).create(createSandboxToProto(request, sandboxer), callOptions(context));
    },
    start: async (context, sandboxId) => {
      const answer = await (await controller()).start({ sandboxId, sandboxer }, callOptions(context));
      return sandboxInstanceFromProto(sandboxId, answer);
    },
    platform: async (context, sandboxId) => {
      const { platform } = await (await controller()).platform({ sandboxId, sandboxer }, callOptions(context));
      return sandboxPlatformFromProto(platform);
    },
    stop: async (context, sandboxId, { timeoutSecs }) => {
      await (await controller()).stop({ sandboxId, sandboxer, timeoutSecs }, callOptions(context));
    },
    wait: async (context, sandboxId) =>
      sandboxExitFromProto(await (await controller()).wait({ sandboxId, sandboxer }, callOptions(context))),
    status: async (context, sandboxId, { verbose }) => {
      const answer = await (await controller()).status({ sandboxId, sandboxer, verbose }, callOptions(context));
      return sandboxStatusFromProto(sandboxId, answer);
    },
    shutdown: async (context, sandboxId) => {
      await (await controller()).shutdown({ sandboxId, sandboxer }, callOptions(context));
    },
    metrics: async (context, sandboxId) => {
      const { metrics } = await (await controller()).metrics({ sandboxId, sandboxer }, callOptions(context));
      return sandboxMetricFromProto(metrics);
    },
    update: async (context, sandboxId, sandbox, fields) => {
      const request = { sandboxId, sandboxer, sandbox: sandboxToProto(sandbox), fields: [...fields] };
      await (await controller()).update(request, callOptions(context));
    },
  };
}
