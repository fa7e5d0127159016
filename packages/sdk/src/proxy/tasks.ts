import { descriptorFromProto, descriptorToProto } from "@stevedore/convert/descriptors";
import { mountToProto } from "@stevedore/convert/mounts";
import { processFromProto } from "@stevedore/convert/tasks";
import { dateFromProto } from "@stevedore/convert/timestamps";
import type { ExitRecord, TaskManager } from "@stevedore/core";
import type { Transport } from "@stevedore/wire/rpc/index";
import { callOptions, lazyClient, present } from "./call.ts";

/** The tasks of a daemon. */
export function tasksProxy(transport: Transport): TaskManager {
  const tasks = lazyClient(
    transport,
    async () => (await import("@stevedore/wire/gen/light/containerd/services/tasks/v1/tasks_pb")).Tasks,
  );
  return {
    create: async (context, { containerId, rootfs, io, checkpoint, options, runtimePath, taskApi }) => {
      const { pid } = await (await tasks()).create(
        {
          containerId,
          rootfs: rootfs.map(mountToProto),
          ...io,
          runtimePath,
          ...(taskApi === undefined ? {} : { taskApiAddress: taskApi.address, taskApiVersion: taskApi.version }),
          ...(options === undefined ? {} : { options: { ...options } }),
          ...(checkpoint === undefined ? {} : { checkpoint: descriptorToProto(checkpoint) }),
        },
        callOptions(context),
      );
      return { pid };
    },
    start: async (context, process) => {
      const { pid } = await (await tasks()).start({ ...process }, callOptions(context));
      return { pid };
    },
    delete: async (context, { containerId, execId }): Promise<ExitRecord> => {
      const client = await tasks();
      const options = callOptions(context);
      const answer =
        execId === ""
          ? await client.delete({ containerId }, options)
          : await client.deleteProcess({ containerId, execId }, options);
      const { id, pid, exitStatus, exitedAt } = answer;
      return { id, pid, exitStatus, exitedAt: dateFromProto(exitedAt) };
    },
    get: async (context, process) => {
      const answer = await (await tasks()).get({ ...process }, callOptions(context));
      return processFromProto(present(answer.process, "process"));
    },
    list: async (context) => {
      const answer = await (await tasks()).list({}, callOptions(context));
      return answer.tasks.map(processFromProto);
    },
    kill: async (context, process, { number, all }) => {
      await (await tasks()).kill({ ...process, signal: number, all }, callOptions(context));
    },
    exec: async (context, { containerId, execId, io, spec }) => {
      await (await tasks()).exec({ containerId, execId, ...io, spec: { ...spec } }, callOptions(context));
    },
    resizePty: async (context, process, { width, height }) => {
      await (await tasks()).resizePty({ ...process, width, height }, callOptions(context));
    },
    closeIo: async (context, process, { stdin }) => {
      await (await tasks()).closeIO({ ...process, stdin }, callOptions(context));
    },
    pause: async (context, containerId) => {
      await (await tasks()).pause({ containerId }, callOptions(context));
    },
    resume: async (context, containerId) => {
      await (await tasks()).resume({ containerId }, callOptions(context));
    },
    pids: async (context, containerId) => {
      const { processes } = await (await tasks()).listPids({ containerId }, callOptions(context));
      return processes.map(({ pid, info }) => ({
        pid,
        ...(info === undefined ? {} : { info: { typeUrl: info.typeUrl, value: info.value } }),
      }));
    },
    checkpoint: async (context, containerId, { options }) => {
      const { descriptors } = await (await tasks()).checkpoint(
        { containerId, ...(options === undefined ? {} : { options: { ...options } }) },
        callOptions(context),
      );
      return descriptors.map(descriptorFromProto);
    },
    update: async (context, containerId, { resources, annotations }) => {
      await (await tasks()).update(
        { containerId, resources: { ...resources }, annotations: { ...annotations } },
        callOptions(context),
      );
    },
    metrics: async (context, filters) => {
      const { metrics } = await (await tasks()).metrics({ filters: [...filters] }, callOptions(context));
      return metrics.map(({ id, timestamp, data }) => {
        const { typeUrl, value } = present(data, "metric data");
        return { id, timestamp: dateFromProto(timestamp), nanos: timestamp?.nanos ?? 0, data: { typeUrl, value } };
      });
    },
    wait: async (context, process): Promise<ExitRecord> => {
      const { exitStatus, exitedAt } = await (await tasks()).wait({ ...process }, callOptions(context));
      const id = process.execId === "" ? process.containerId : process.execId;
      // Wait does not tell the pid.
      return { id, pid: 0, exitStatus, exitedAt: dateFromProto(exitedAt) };
    },
  };
}
