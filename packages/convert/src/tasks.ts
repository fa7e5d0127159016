import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ProcessState, TaskStatus } from "@stevedore/core";
import type { Process, ProcessSchema } from "@stevedore/wire/gen/containerd/types/task/task_pb";
import { optionalDateFromProto, timestampToProto } from "./timestamps.ts";

/** `Status` of the protocol. */
const STATUS_NUMBERS = {
  unknown: 0,
  created: 1,
  running: 2,
  stopped: 3,
  paused: 4,
  pausing: 5,
} as const satisfies Record<TaskStatus, number>;

/** The number of a status. */
export function taskStatusToProto(status: TaskStatus): (typeof STATUS_NUMBERS)[TaskStatus] {
  return STATUS_NUMBERS[status];
}

/** The status of a number; `unknown` for one that has no name. */
export function taskStatusFromProto(status: number): TaskStatus {
  switch (status) {
    case STATUS_NUMBERS.created:
      return "created";
    case STATUS_NUMBERS.running:
      return "running";
    case STATUS_NUMBERS.stopped:
      return "stopped";
    case STATUS_NUMBERS.paused:
      return "paused";
    case STATUS_NUMBERS.pausing:
      return "pausing";
    default:
      return "unknown";
  }
}

/** A process as a message. */
export function processToProto(process: ProcessState): MessageInitShape<typeof ProcessSchema> {
  return {
    containerId: process.containerId,
    id: process.id,
    pid: process.pid,
    status: STATUS_NUMBERS[process.status],
    ...process.io,
    exitStatus: process.exitStatus,
    ...(process.exitedAt === undefined ? {} : { exitedAt: timestampToProto(process.exitedAt) }),
  };
}

/** A process out of a message. */
export function processFromProto(process: Process): ProcessState {
  const exitedAt = optionalDateFromProto(process.exitedAt);
  const { stdin, stdout, stderr, terminal } = process;
  return {
    containerId: process.containerId,
    id: process.id,
    pid: process.pid,
    status: taskStatusFromProto(process.status),
    io: { stdin, stdout, stderr, terminal },
    exitStatus: process.exitStatus,
    ...(exitedAt === undefined ? {} : { exitedAt }),
  };
}
