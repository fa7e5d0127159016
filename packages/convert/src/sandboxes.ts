import type { MessageInitShape } from "@bufbuild/protobuf";
import type {
  CreateSandbox,
  NewSandbox,
  Sandbox,
  SandboxExit,
  SandboxInstance,
  SandboxMetric,
  SandboxPlatform,
  SandboxStatus,
} from "@stevedore/core";
import type {
  ControllerCreateRequestSchema,
  ControllerStartResponse,
  ControllerStartResponseSchema,
  ControllerStatusResponse,
  ControllerStatusResponseSchema,
  ControllerWaitResponse,
} from "@stevedore/wire/gen/containerd/services/sandbox/v1/sandbox_pb";
import type { Metric, MetricSchema } from "@stevedore/wire/gen/containerd/types/metrics_pb";
import type { Platform } from "@stevedore/wire/gen/containerd/types/platform_pb";
import type { Sandbox as SandboxMessage, SandboxSchema } from "@stevedore/wire/gen/containerd/types/sandbox_pb";
import { anyFromProto, anyMapFromProto, anyMapToProto, anyToProto } from "./any.ts";
import { mountToProto } from "./mounts.ts";
import { dateFromProto, optionalDateFromProto, timestampToProto } from "./timestamps.ts";

/** A sandbox as a message; times that are not known are left out. */
export function sandboxToProto(
  sandbox: NewSandbox & Partial<Pick<Sandbox, "createdAt" | "updatedAt">>,
): MessageInitShape<typeof SandboxSchema> {
  const { runtime, spec, createdAt, updatedAt } = sandbox;
  return {
    sandboxId: sandbox.id,
    runtime: {
      name: runtime.name,
      ...(runtime.options === undefined ? {} : { options: anyToProto(runtime.options) }),
    },
    ...(spec === undefined ? {} : { spec: anyToProto(spec) }),
    labels: { ...sandbox.labels },
    extensions: anyMapToProto(sandbox.extensions),
    sandboxer: sandbox.sandboxer,
    ...(createdAt === undefined ? {} : { createdAt: timestampToProto(createdAt) }),
    ...(updatedAt === undefined ? {} : { updatedAt: timestampToProto(updatedAt) }),
  };
}

/** A sandbox out of a message; a missing runtime has the name "". */
export function sandboxFromProto(sandbox: SandboxMessage): Sandbox {
  const { runtime, spec } = sandbox;
  return {
    id: sandbox.sandboxId,
    labels: { ...sandbox.labels },
    runtime: {
      name: runtime?.name ?? "",
      ...(runtime?.options === undefined ? {} : { options: anyFromProto(runtime.options) }),
    },
    ...(spec === undefined ? {} : { spec: anyFromProto(spec) }),
    sandboxer: sandbox.sandboxer,
    extensions: anyMapFromProto(sandbox.extensions),
    createdAt: dateFromProto(sandbox.createdAt),
    updatedAt: dateFromProto(sandbox.updatedAt),
  };
}

/** The request that has a controller make a sandbox. */
export function createSandboxToProto(
  request: CreateSandbox,
  sandboxer: string,
): MessageInitShape<typeof ControllerCreateRequestSchema> {
  const { sandbox, rootfs, options, netnsPath, annotations } = request;
  return {
    sandboxId: sandbox.id,
    rootfs: rootfs.map(mountToProto),
    ...(options === undefined ? {} : { options: anyToProto(options) }),
    netnsPath,
    annotations: { ...annotations },
    sandbox: sandboxToProto(sandbox),
    sandboxer,
  };
}

/** A started sandbox as a message; what is not known is left out. */
export function sandboxInstanceToProto(
  instance: SandboxInstance,
): MessageInitShape<typeof ControllerStartResponseSchema> {
  const { id, pid, createdAt, labels, address, version, spec } = instance;
  return {
    sandboxId: id,
    pid,
    ...(createdAt === undefined ? {} : { createdAt: timestampToProto(createdAt) }),
    labels: { ...labels },
    address,
    version,
    ...(spec === undefined ? {} : { spec: anyToProto(spec) }),
  };
}

/** A started sandbox out of a message, of the id that was asked for. */
export function sandboxInstanceFromProto(id: string, answer: ControllerStartResponse): SandboxInstance {
  const createdAt = optionalDateFromProto(answer.createdAt);
  return {
    id,
    pid: answer.pid,
    ...(createdAt === undefined ? {} : { createdAt }),
    labels: { ...answer.labels },
    address: answer.address,
    version: answer.version,
    ...(answer.spec === undefined ? {} : { spec: anyFromProto(answer.spec) }),
  };
}

/** A status as a message. As the peer's, it has an empty `extra` when there is none. */
export function sandboxStatusToProto(status: SandboxStatus): MessageInitShape<typeof ControllerStatusResponseSchema> {
  const { id, pid, state, info, createdAt, exitedAt, extra, address, version } = status;
  return {
    sandboxId: id,
    pid,
    state,
    info: { ...info },
    ...(createdAt === undefined ? {} : { createdAt: timestampToProto(createdAt) }),
    ...(exitedAt === undefined ? {} : { exitedAt: timestampToProto(exitedAt) }),
    extra: extra === undefined ? {} : anyToProto(extra),
    address,
    version,
  };
}

/** A status out of a message, of the id that was asked for; an empty `extra` is none. */
export function sandboxStatusFromProto(id: string, answer: ControllerStatusResponse): SandboxStatus {
  const createdAt = optionalDateFromProto(answer.createdAt);
  const exitedAt = optionalDateFromProto(answer.exitedAt);
  const { extra } = answer;
  return {
    id,
    pid: answer.pid,
    state: answer.state,
    info: { ...answer.info },
    ...(createdAt === undefined ? {} : { createdAt }),
    ...(exitedAt === undefined ? {} : { exitedAt }),
    ...(extra === undefined || extra.typeUrl === "" ? {} : { extra: anyFromProto(extra) }),
    address: answer.address,
    version: answer.version,
  };
}

/** The end of a sandbox out of a message; a time that is not told is absent. */
export function sandboxExitFromProto(answer: Pick<ControllerWaitResponse, "exitStatus" | "exitedAt">): SandboxExit {
  const exitedAt = optionalDateFromProto(answer.exitedAt);
  return { exitStatus: answer.exitStatus, ...(exitedAt === undefined ? {} : { exitedAt }) };
}

/** The end of a sandbox as the fields of a message. */
export function sandboxExitToProto({ exitStatus, exitedAt }: SandboxExit): {
  exitStatus: number;
  exitedAt?: ReturnType<typeof timestampToProto>;
} {
  return { exitStatus, ...(exitedAt === undefined ? {} : { exitedAt: timestampToProto(exitedAt) }) };
}

/** A platform out of a message; an absent one has no names. */
export function sandboxPlatformFromProto(platform: Platform | undefined): SandboxPlatform {
  return { os: platform?.os ?? "", architecture: platform?.architecture ?? "", variant: platform?.variant ?? "" };
}

/** A measurement out of a message; undefined for one that says nothing. */
export function sandboxMetricFromProto(metric: Metric | undefined): SandboxMetric | undefined {
  if (metric === undefined || (metric.id === "" && metric.data === undefined)) return undefined;
  const { id, timestamp, data } = metric;
  return { id, timestamp: dateFromProto(timestamp), ...(data === undefined ? {} : { data: anyFromProto(data) }) };
}

/** A measurement as a message. */
export function sandboxMetricToProto({
  id,
  timestamp,
  nanos,
  data,
}: SandboxMetric): MessageInitShape<typeof MetricSchema> {
  return {
    id,
    timestamp: timestampToProto(timestamp, nanos),
    ...(data === undefined ? {} : { data: anyToProto(data) }),
  };
}
