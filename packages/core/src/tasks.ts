import type { RequestContext } from "@stevedore/base";
import type { AnyValue } from "./events.ts";
import type { Descriptor } from "./images.ts";
import type { Mount } from "./mount.ts";

/** The states a process can be in. */
export type TaskStatus = "unknown" | "created" | "running" | "stopped" | "paused" | "pausing";

/** Paths (or log URIs) of a process's streams, "" for none. */
export interface TaskIO {
  readonly stdin: string;
  readonly stdout: string;
  readonly stderr: string;
  readonly terminal: boolean;
}

/** A process as the API shows it. `id` is the exec id for execs, else the container id. */
export interface ProcessState {
  readonly containerId: string;
  readonly id: string;
  readonly pid: number;
  readonly status: TaskStatus;
  readonly io: TaskIO;
  readonly exitStatus: number;
  readonly exitedAt?: Date;
}

/** How a process ended. */
export interface ExitRecord {
  readonly id: string;
  readonly pid: number;
  readonly exitStatus: number;
  readonly exitedAt: Date;
}

/** What a task is made from. */
export interface CreateTask {
  readonly containerId: string;
  readonly rootfs: readonly Mount[];
  readonly io: TaskIO;
  /** A checkpoint among the content: the task is restored from it when it is started. */
  readonly checkpoint?: Descriptor;
  /** Replaces the container's runtime options when present. */
  readonly options?: AnyValue;
  /** Shim binary path, overriding the runtime's name. */
  readonly runtimePath: string;
  /** Where the shim of the container's sandbox listens, for one that no controller here knows. */
  readonly taskApi?: TaskApi;
}

/** A task API that is served already. */
export interface TaskApi {
  /** `<protocol>+<address>`: `ttrpc+unix:///path`. */
  readonly address: string;
  readonly version: number;
}

/** What an additional process is made from. */
export interface ExecTask {
  readonly containerId: string;
  readonly execId: string;
  readonly io: TaskIO;
  /** OCI Process as an Any, verbatim. */
  readonly spec: AnyValue;
}

/** A process of a task: `execId` "" is init. */
export interface ProcessRef {
  readonly containerId: string;
  readonly execId: string;
}

/** A task by what was last heard of it. */
export interface KnownTask {
  readonly namespace: string;
  readonly id: string;
  /** Of init, on the host; 0 when it is not known. */
  readonly pid: number;
  readonly status: TaskStatus;
  /** Path of the shim's binary; "" when it is not known. */
  readonly shim: string;
}

/**
 * Running containers. Deadlines: the peer's for state, load, cleanup, shutdown and stats; else the caller's. With a
 * shim that does not answer, lists come from the last known state.
 */
export interface TaskManager {
  create(context: RequestContext, task: CreateTask): Promise<{ readonly pid: number }>;
  start(context: RequestContext, process: ProcessRef): Promise<{ readonly pid: number }>;
  /** Deletes a stopped task or exec. @throws failed-precondition while it runs */
  delete(context: RequestContext, process: ProcessRef): Promise<ExitRecord>;
  get(context: RequestContext, process: ProcessRef): Promise<ProcessState>;
  list(context: RequestContext): Promise<readonly ProcessState[]>;
  kill(
    context: RequestContext,
    process: ProcessRef,
    signal: { readonly number: number; readonly all: boolean },
  ): Promise<void>;
  exec(context: RequestContext, exec: ExecTask): Promise<void>;
  resizePty(
    context: RequestContext,
    process: ProcessRef,
    size: { readonly width: number; readonly height: number },
  ): Promise<void>;
  closeIo(context: RequestContext, process: ProcessRef, streams: { readonly stdin: boolean }): Promise<void>;
  pause(context: RequestContext, containerId: string): Promise<void>;
  resume(context: RequestContext, containerId: string): Promise<void>;
  pids(
    context: RequestContext,
    containerId: string,
  ): Promise<readonly { readonly pid: number; readonly info?: AnyValue }[]>;
  /**
   * Writes the state of a task's processes. It goes on, unless the options say `exit`; when this fails it goes on in any
   * case.
   *
   * @returns the checkpoint and the container's configuration as content; nothing when the options name a folder for it
   * @throws unknown with the reason of the runtime and of criu
   */
  checkpoint(
    context: RequestContext,
    containerId: string,
    options: { readonly options?: AnyValue },
  ): Promise<readonly Descriptor[]>;
  update(
    context: RequestContext,
    containerId: string,
    resources: { readonly resources: AnyValue; readonly annotations: Readonly<Record<string, string>> },
  ): Promise<void>;
  /** One per task that matches a filter (`id`, `namespace`); a shim that does not answer in time is left out. */
  metrics(context: RequestContext, filters: readonly string[]): Promise<readonly TaskMetric[]>;
  /** Resolves at exit, or at once when the process has ended. No deadline of ours. */
  wait(context: RequestContext, process: ProcessRef): Promise<ExitRecord>;
}

/** As {@link CreateTask}, for who makes the task: a checkpoint is a folder of criu's images there, "" or absent for none. */
export type LocalCreateTask = Omit<CreateTask, "checkpoint"> & { readonly checkpointPath?: string };

/** A manager that holds its tasks itself. Checkpoints are folders to it. */
export interface LocalTaskManager extends Omit<TaskManager, "create" | "checkpoint"> {
  create(context: RequestContext, task: LocalCreateTask): Promise<{ readonly pid: number }>;
  /** Writes criu's images into the folder `path`, which is there. */
  checkpoint(
    context: RequestContext,
    containerId: string,
    options: { readonly path: string; readonly options?: AnyValue },
  ): Promise<void>;
  /** The tasks of all namespaces, at once and without asking their shims. */
  known(): readonly KnownTask[];
}

/** One measurement of a task; the data is the shim's own message. */
export interface TaskMetric {
  readonly id: string;
  readonly timestamp: Date;
  /** Nanoseconds within the second of {@link timestamp}, since a Date only holds milliseconds. */
  readonly nanos?: number;
  readonly data: AnyValue;
}
