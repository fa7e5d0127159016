import { classified, withContext } from "@stevedore/base";
import { anyFromProto } from "@stevedore/convert/any";
import { mountFromProto } from "@stevedore/convert/mounts";
import {
  sandboxExitToProto,
  sandboxFromProto,
  sandboxInstanceToProto,
  sandboxMetricToProto,
  sandboxStatusToProto,
} from "@stevedore/convert/sandboxes";
import { type EventExchange, goQuote, type NewSandbox, type SandboxController } from "@stevedore/core";
import {
  SandboxCreateSchema,
  SandboxExitSchema,
  SandboxStartSchema,
} from "@stevedore/wire/gen/containerd/events/sandbox_pb";
import type { Controller } from "@stevedore/wire/gen/containerd/services/sandbox/v1/sandbox_pb";
import type { ServiceImpl } from "@stevedore/wire/rpc/index";
import { publishEvent, requestContext } from "./request.ts";

/** The service of sandbox controllers, each found by the name that a request gives as `sandboxer`. */
export function sandboxControllersService(of: {
  readonly controllers: ReadonlyMap<string, SandboxController>;
  readonly events: EventExchange;
}): ServiceImpl<typeof Controller> {
  const { controllers, events } = of;
  const controller = (name: string): SandboxController => {
    if (name === "") {
      throw classified("invalid-argument", "invalid argument: sandbox controller name can not be empty");
    }
    const found = controllers.get(name);
    if (found === undefined) throw classified("not-found", `not found: failed to get sandbox controller by ${name}`);
    return found;
  };
  return {
    create: async ({ sandboxId, sandboxer, sandbox, rootfs, options, netnsPath, annotations }, call) => {
      const found = controller(sandboxer);
      const context = requestContext(call);
      await found.create(context, {
        sandbox: sandbox === undefined ? bareSandbox(sandboxId, sandboxer) : sandboxFromProto(sandbox),
        rootfs: rootfs.map(mountFromProto),
        ...(options === undefined ? {} : { options: anyFromProto(options) }),
        netnsPath,
        annotations,
      });
      await publishEvent({ events, context, topic: "/sandboxes/create" }, SandboxCreateSchema, { sandboxId });
      return { sandboxId };
    },
    start: async ({ sandboxId, sandboxer }, call) => {
      const found = named(`failed to get sandbox controller for ${goQuote(sandboxer)}`, () => controller(sandboxer));
      const context = requestContext(call);
      const instance = await found.start(context, sandboxId).catch((error: unknown) => {
        throw withContext(`failed to start sandbox ${goQuote(sandboxId)}`, error);
      });
      await publishEvent({ events, context, topic: "/sandboxes/start" }, SandboxStartSchema, { sandboxId });
      return sandboxInstanceToProto(instance);
    },
    platform: async ({ sandboxId, sandboxer }, call) => ({
      platform: { ...(await controller(sandboxer).platform(requestContext(call), sandboxId)) },
    }),
    stop: async ({ sandboxId, sandboxer, timeoutSecs }, call) => {
      await controller(sandboxer).stop(requestContext(call), sandboxId, { timeoutSecs });
      return {};
    },
    wait: async ({ sandboxId, sandboxer }, call) => {
      const found = controller(sandboxer);
      const context = requestContext(call);
      const exit = sandboxExitToProto(await found.wait(context, sandboxId));
      if (!found.announcesExits) {
        await publishEvent({ events, context, topic: "/sandboxes/exit" }, SandboxExitSchema, { sandboxId, ...exit });
      }
      return exit;
    },
    status: async ({ sandboxId, sandboxer, verbose }, call) =>
      sandboxStatusToProto(await controller(sandboxer).status(requestContext(call), sandboxId, { verbose })),
    shutdown: async ({ sandboxId, sandboxer }, call) => {
      await controller(sandboxer).shutdown(requestContext(call), sandboxId);
      return {};
    },
    metrics: async ({ sandboxId, sandboxer }, call) => {
      const metric = await controller(sandboxer).metrics(requestContext(call), sandboxId);
      return metric === undefined ? {} : { metrics: sandboxMetricToProto(metric) };
    },
    update: async ({ sandboxId, sandboxer, sandbox, fields }, call) => {
      const found = controller(sandboxer);
      if (sandbox === undefined) throw classified("unknown", "sandbox can not be nil");
      await found.update(requestContext(call), sandboxId, sandboxFromProto(sandbox), fields);
      return {};
    },
  };
}

/** What a request without a record asks for: its controller has to know the rest. */
function bareSandbox(id: string, sandboxer: string): NewSandbox {
  return { id, sandboxer, labels: {}, runtime: { name: "" }, extensions: {} };
}

function named<T>(doing: string, find: () => T): T {
  try {
    return find();
  } catch (error) {
    throw withContext(doing, error);
  }
}
