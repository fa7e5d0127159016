import { fromBinary } from "@bufbuild/protobuf";
import { classified } from "@stevedore/base";
import { anyFromProto, anyToProto } from "@stevedore/convert/any";
import { descriptorFromProto, descriptorToProto } from "@stevedore/convert/descriptors";
import { mountFromProto } from "@stevedore/convert/mounts";
import { restoresFromFolder } from "@stevedore/convert/runc-options";
import { processToProto } from "@stevedore/convert/tasks";
import { timestampToProto } from "@stevedore/convert/timestamps";
import type { ExitRecord, TaskApi, TaskManager } from "@stevedore/core";
import { OptionsSchema } from "@stevedore/wire/gen/containerd/runc/v1/options_pb";
import type { CreateTaskRequest, Tasks } from "@stevedore/wire/gen/containerd/services/tasks/v1/tasks_pb";
import type { ServiceImpl } from "@stevedore/wire/rpc/index";
import { requestContext, required } from "./request.ts";

/** The tasks service. */
export function tasksService({ tasks }: { readonly tasks: TaskManager }): ServiceImpl<typeof Tasks> {
  return {
    create: async (request, call) => {
      const { containerId, rootfs, stdin, stdout, stderr, terminal, checkpoint, options, runtimePath } = request;
      const { pid } = await tasks.create(requestContext(call), {
        containerId,
        rootfs: rootfs.map(mountFromProto),
        io: { stdin, stdout, stderr, terminal },
        runtimePath,
        ...(checkpoint === undefined || restoresFromFolder(options)
          ? {}
          : { checkpoint: descriptorFromProto(checkpoint) }),
        ...(options === undefined ? {} : { options: anyFromProto(options) }),
        ...taskApiOf(request),
      });
      return { containerId, pid };
    },
    start: async ({ containerId, execId }, call) => tasks.start(requestContext(call), { containerId, execId }),
    delete: async ({ containerId }, call) =>
      exitToProto(await tasks.delete(requestContext(call), { containerId, execId: "" })),
    deleteProcess: async ({ containerId, execId }, call) =>
      exitToProto(await tasks.delete(requestContext(call), { containerId, execId })),
    get: async ({ containerId, execId }, call) => ({
      process: processToProto(await tasks.get(requestContext(call), { containerId, execId })),
    }),
    list: async (_request, call) => ({ tasks: (await tasks.list(requestContext(call))).map(processToProto) }),
    kill: async ({ containerId, execId, signal, all }, call) => {
      await tasks.kill(requestContext(call), { containerId, execId }, { number: signal, all });
      return {};
    },
    exec: async ({ containerId, execId, stdin, stdout, stderr, terminal, spec }, call) => {
      if (execId === "") throw classified("invalid-argument", "exec id cannot be empty: invalid argument");
      await tasks.exec(requestContext(call), {
        containerId,
        execId,
        io: { stdin, stdout, stderr, terminal },
        spec: anyFromProto(required(spec, "process spec")),
      });
      return {};
    },
    resizePty: async ({ containerId, execId, width, height }, call) => {
      await tasks.resizePty(requestContext(call), { containerId, execId }, { width, height });
      return {};
    },
    closeIO: async ({ containerId, execId, stdin }, call) => {
      await tasks.closeIo(requestContext(call), { containerId, execId }, { stdin });
      return {};
    },
    pause: async ({ containerId }, call) => {
      await tasks.pause(requestContext(call), containerId);
      return {};
    },
    resume: async ({ containerId }, call) => {
      await tasks.resume(requestContext(call), containerId);
      return {};
    },
    listPids: async ({ containerId }, call) => ({
      processes: (await tasks.pids(requestContext(call), containerId)).map(({ pid, info }) => ({
        pid,
        ...(info === undefined ? {} : { info: anyToProto(info) }),
      })),
    }),
    checkpoint: async ({ containerId, options }, call) => {
      const given = options === undefined ? {} : { options: anyFromProto(options) };
      const descriptors = await tasks.checkpoint(requestContext(call), containerId, given);
      return { descriptors: descriptors.map(descriptorToProto) };
    },
    update: async ({ containerId, resources, annotations }, call) => {
      await tasks.update(requestContext(call), containerId, {
        resources: anyFromProto(required(resources, "resources")),
        annotations,
      });
      return {};
    },
    metrics: async ({ filters }, call) => ({
      metrics: (await tasks.metrics(requestContext(call), filters)).map(({ id, timestamp, nanos, data }) => ({
        id,
        timestamp: timestampToProto(timestamp, nanos),
        data: anyToProto(data),
      })),
    }),
    wait: async ({ containerId, execId }, call) => {
      const { exitStatus, exitedAt } = await tasks.wait(requestContext(call), { containerId, execId });
      return { exitStatus, exitedAt: timestampToProto(exitedAt) };
    },
  };
}

function exitToProto({ id, pid, exitStatus, exitedAt }: ExitRecord) {
  return { id, pid, exitStatus, exitedAt: timestampToProto(exitedAt) };
}

/** Where the shim of a container's sandbox listens; runc's options of containerd 2.0 say it for clients of that time. */
function taskApiOf({
  taskApiAddress,
  taskApiVersion,
  options,
}: Pick<CreateTaskRequest, "taskApiAddress" | "taskApiVersion" | "options">): { readonly taskApi?: TaskApi } {
  if (taskApiAddress !== "") return { taskApi: { address: taskApiAddress, version: taskApiVersion } };
  if (options?.typeUrl.endsWith(OptionsSchema.typeName) !== true) return {};
  const runc = fromBinary(OptionsSchema, options.value);
  return runc.taskApiAddress === "" ? {} : { taskApi: { address: runc.taskApiAddress, version: runc.taskApiVersion } };
}
