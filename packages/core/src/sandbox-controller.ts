import type { RequestContext } from "@stevedore/base";
import type { AnyValue } from "./events.ts";
import type { FieldMask } from "./labels.ts";
import type { Mount } from "./mount.ts";
import type { NewSandbox } from "./sandboxes.ts";
import type { TaskMetric } from "./tasks.ts";

/** What a running sandbox is made from. */
export interface CreateSandbox {
  /** The record: its id, and the runtime that makes it. */
  readonly sandbox: NewSandbox;
  readonly rootfs: readonly Mount[];
  /** For the controller's own use (CRI's PodSandboxConfig); not the runtime's options. */
  readonly options?: AnyValue;
  /** "" for none. */
  readonly netnsPath: string;
  readonly annotations: Readonly<Record<string, string>>;
}

/** A sandbox that was started. */
export interface SandboxInstance {
  readonly id: string;
  /** Of the process that is the sandbox; 0 when its shim does not tell. */
  readonly pid: number;
  readonly createdAt?: Date;
  readonly labels: Readonly<Record<string, string>>;
  /** Where tasks of the sandbox are made, as `ttrpc+unix:///path`; "" when that is not told. */
  readonly address: string;
  /** Version of the task API there; 0 when that is not told. */
  readonly version: number;
  readonly spec?: AnyValue;
}

/** What a controller tells of a sandbox. */
export interface SandboxStatus {
  readonly id: string;
  readonly pid: number;
  /** `SANDBOX_READY`, `SANDBOX_NOTREADY`, or what a shim of somebody else says. */
  readonly state: string;
  /** Only when asked to be verbose. */
  readonly info: Readonly<Record<string, string>>;
  readonly createdAt?: Date;
  readonly exitedAt?: Date;
  readonly extra?: AnyValue;
  readonly address: string;
  readonly version: number;
}

/** How a sandbox ended. */
export interface SandboxExit {
  readonly exitStatus: number;
  readonly exitedAt?: Date;
}

/** The platform of what runs in a sandbox, in Go's names. */
export interface SandboxPlatform {
  readonly os: string;
  readonly architecture: string;
  readonly variant: string;
}

/** Runs sandboxes. Their records are the store's. */
export interface SandboxController {
  /** Whether ends of sandboxes are published as they come; those of others are when a wait learns of them. */
  readonly announcesExits: boolean;
  /** @throws already-exists; unknown when there is no such runtime; not-implemented when its shim knows no sandboxes */
  create(context: RequestContext, request: CreateSandbox): Promise<void>;
  /** @throws unknown when there is no such sandbox, as in the peer */
  start(context: RequestContext, id: string): Promise<SandboxInstance>;
  /** @throws not-found */
  platform(context: RequestContext, id: string): Promise<SandboxPlatform>;
  /** Ends what runs in it. One that is not there is stopped. @param timeoutSecs 0: at once */
  stop(context: RequestContext, id: string, options: { readonly timeoutSecs: number }): Promise<void>;
  /** Resolves at the sandbox's end. No deadline of ours. @throws not-found */
  wait(context: RequestContext, id: string): Promise<SandboxExit>;
  /** One that is not there has ended. */
  status(context: RequestContext, id: string, options: { readonly verbose: boolean }): Promise<SandboxStatus>;
  /** Ends it and removes everything of it. @throws not-found */
  shutdown(context: RequestContext, id: string): Promise<void>;
  /** Undefined when its shim measures nothing. @throws not-found */
  metrics(context: RequestContext, id: string): Promise<SandboxMetric | undefined>;
  update(context: RequestContext, id: string, sandbox: NewSandbox, fields: FieldMask): Promise<void>;
}

/** One measurement of a sandbox. */
export type SandboxMetric = Omit<TaskMetric, "data"> & { readonly data?: AnyValue };
