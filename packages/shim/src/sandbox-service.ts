import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { classified, messageOf } from "@stevedore/base/errors";
import type { Logger } from "@stevedore/base/log";
import { nowMoment } from "@stevedore/base/moment";
import { MNT, type MountStep, mountAll, unmountRecursive } from "@stevedore/os/mount";
import { SIGKILL, SIGTERM } from "@stevedore/os/signals";
import type { MessageInitShape } from "@stevedore/wire/codec";
import type {
  SandboxMetricsResponseSchema,
  SandboxStatusResponseSchema,
} from "@stevedore/wire/gen/light/containerd/runtime/sandbox/v1/sandbox_pb";
import { BUNDLE } from "./bundle.ts";
import type { Container } from "./container.ts";
import { settledWithin } from "./process.ts";
import { readSandboxRecord, type SandboxRecord, writeSandboxRecord } from "./sandbox-record.ts";
import { type TaskService, timestamp } from "./task-service.ts";

/** Methods of the sandbox service. */
export const SANDBOX_METHODS = [
  "CreateSandbox",
  "StartSandbox",
  "Platform",
  "StopSandbox",
  "WaitSandbox",
  "SandboxStatus",
  "PingSandbox",
  "ShutdownSandbox",
  "SandboxMetrics",
] as const;

interface Target {
  readonly sandboxId: string;
}

interface CreateRequest extends Target {
  readonly bundlePath: string;
  readonly rootfs: readonly MountStep[];
  readonly netnsPath: string;
  readonly annotations: Readonly<Record<string, string>>;
}

/** The life of a sandbox. There is no way back. */
type Phase = SandboxRecord["phase"];

interface Sandbox extends Target {
  readonly bundlePath: string;
  readonly netnsPath: string;
  readonly annotations: Readonly<Record<string, string>>;
  readonly createdAt: Date;
  readonly ended: PromiseWithResolvers<Date>;
  phase: Phase;
  exitedAt: Date | undefined;
  /** Where its rootfs is mounted; "" for none. */
  rootfsPath: string;
}

/** How clients of CRI name what a sandbox is. */
const STATE: Readonly<Record<Phase, string>> = {
  created: "SANDBOX_NOTREADY",
  ready: "SANDBOX_READY",
  stopped: "SANDBOX_NOTREADY",
};

/** How long killed processes may take to be gone, milliseconds: longer than a runtime on a busy machine needs. */
const KILLED_MS = 10_000;

/** After which time those that are still there are killed once more. */
const KILLED_AGAIN_MS = 1_000;

/** The longest grace that is waited for, seconds: an hour. Timers do not reach further than 24 days, and no client means that. */
const MAX_GRACE_SECS = 3_600;

export interface SandboxServiceOptions {
  readonly tasks: Pick<TaskService, "containers" | "isEmpty" | "settled" | "delete">;
  readonly log: Logger;
  /** Ends the shim. */
  readonly shutdown: () => void;
}

/**
 * The sandbox service: a shim that is a pod. Its containers live in it and end with it; the sandbox itself is the shim's
 * process, without a container that only holds namespaces.
 */
export class SandboxService {
  readonly #options: SandboxServiceOptions;
  #sandbox: Sandbox | undefined;
  /** Set once the shim is to end: what comes now would be cut off. */
  #closed = false;

  constructor(options: SandboxServiceOptions) {
    this.#options = options;
  }

  /** Whether no sandbox is here. */
  get isEmpty(): boolean {
    return this.#sandbox === undefined;
  }

  /** @throws failed-precondition when the sandbox has been stopped */
  assertOpen(): void {
    if (!this.#closed && this.#sandbox?.phase !== "stopped") return;
    const which = this.#sandbox === undefined ? "" : ` ${this.#sandbox.sandboxId}`;
    throw classified(
      "failed-precondition",
      `create container in sandbox${which}: it has been stopped: failed precondition`,
    );
  }

  async createSandbox(request: CreateRequest): Promise<Record<string, never>> {
    const { sandboxId, bundlePath, rootfs } = request;
    const other = this.#sandbox?.sandboxId;
    if (other !== undefined) {
      throw other === sandboxId
        ? classified("already-exists", `sandbox ${sandboxId}: already exists`)
        : classified(
            "failed-precondition",
            `create sandbox ${sandboxId}: this shim is sandbox ${other}: failed precondition`,
          );
    }
    const sandbox: Sandbox = {
      sandboxId,
      bundlePath,
      netnsPath: request.netnsPath,
      annotations: request.annotations,
      createdAt: nowMoment(),
      ended: Promise.withResolvers(),
      phase: "created",
      exitedAt: undefined,
      rootfsPath: "",
    };
    // Before anything is waited for: of two that are asked for, one is too late.
    this.#sandbox = sandbox;
    try {
      const before = await readSandboxRecord(bundlePath);
      if (before !== undefined) {
        this.#sandbox = restored(sandbox, before);
        return {};
      }
      if (rootfs.length > 0) {
        sandbox.rootfsPath = join(bundlePath, BUNDLE.rootfs);
        await mkdir(sandbox.rootfsPath, { recursive: true, mode: 0o711 });
        mountAll(rootfs, sandbox.rootfsPath);
      }
      await record(sandbox);
    } catch (error) {
      this.#sandbox = undefined;
      this.#unmount(sandbox);
      throw classified("unknown", `make sandbox ${sandboxId}: ${messageOf(error)}`, { cause: error });
    }
    return {};
  }

  async startSandbox({ sandboxId }: Target): Promise<{ pid: number; createdAt: ReturnType<typeof timestamp> }> {
    const sandbox = this.#find(sandboxId);
    if (sandbox.phase === "stopped") {
      throw classified("failed-precondition", `start sandbox ${sandboxId}: it has been stopped: failed precondition`);
    }
    if (sandbox.phase === "created") {
      sandbox.phase = "ready";
      await record(sandbox);
    }
    return { pid: process.pid, createdAt: timestamp(sandbox.createdAt) };
  }

  async platform({ sandboxId }: Target): Promise<{ platform: { os: string; architecture: string; variant: string } }> {
    this.#find(sandboxId);
    const { hostPlatform } = await import("@stevedore/oci/platform");
    const { os, architecture, variant = "" } = hostPlatform();
    return { platform: { os, architecture, variant } };
  }

  /** Ends what runs in it, and takes no more. Stopping it again waits for the same end. */
  async stopSandbox({
    sandboxId,
    timeoutSecs,
  }: Target & { readonly timeoutSecs: number }): Promise<Record<string, never>> {
    await this.#stop(this.#find(sandboxId), Math.min(timeoutSecs, MAX_GRACE_SECS) * 1_000);
    return {};
  }

  async waitSandbox({ sandboxId }: Target): Promise<{ exitStatus: number; exitedAt: ReturnType<typeof timestamp> }> {
    return { exitStatus: 0, exitedAt: timestamp(await this.#find(sandboxId).ended.promise) };
  }

  async sandboxStatus({
    sandboxId,
    verbose,
  }: Target & { readonly verbose: boolean }): Promise<MessageInitShape<typeof SandboxStatusResponseSchema>> {
    const sandbox = this.#find(sandboxId);
    const { phase, createdAt, exitedAt } = sandbox;
    return {
      sandboxId,
      pid: phase === "ready" ? process.pid : 0,
      state: STATE[phase],
      info: verbose ? this.#info(sandbox) : {},
      createdAt: timestamp(createdAt),
      ...(exitedAt === undefined ? {} : { exitedAt: timestamp(exitedAt) }),
    };
  }

  async pingSandbox({ sandboxId }: Target): Promise<Record<string, never>> {
    this.#find(sandboxId);
    return {};
  }

  /** Ends and removes everything of the sandbox, and the shim. One that was never made takes the shim along as well. */
  async shutdownSandbox({ sandboxId }: Target): Promise<Record<string, never>> {
    const sandbox = this.#sandbox;
    if (sandbox === undefined) {
      // It is the shim of somebody's containers then, which do not end by a word about a sandbox.
      await this.#options.tasks.settled();
      if (!this.#options.tasks.isEmpty) {
        throw classified("not-found", `sandbox ${sandboxId}: not found`);
      }
    } else {
      await this.#stop(this.#find(sandboxId), 0);
      for (const { id } of this.#options.tasks.containers) {
        await this.#options.tasks
          .delete({ id, execId: "" })
          .catch((error: unknown) =>
            this.#options.log.error("failed to delete container of sandbox", { id, error: messageOf(error) }),
          );
      }
      this.#unmount(sandbox);
      this.#sandbox = undefined;
    }
    this.#closed = true;
    this.#options.shutdown();
    return {};
  }

  /** What its containers use together; the sandbox itself has no cgroup. */
  async sandboxMetrics({ sandboxId }: Target): Promise<MessageInitShape<typeof SandboxMetricsResponseSchema>> {
    this.#find(sandboxId);
    const { sumOfStats } = await import("./sandbox-stats.ts");
    const data = await sumOfStats(this.#options.tasks.containers);
    return {
      metrics: { id: sandboxId, timestamp: timestamp(nowMoment()), ...(data === undefined ? {} : { data }) },
    };
  }

  async #stop(sandbox: Sandbox, graceMs: number): Promise<void> {
    sandbox.phase = "stopped";
    const { tasks } = this.#options;
    await tasks.settled();
    await Promise.all(tasks.containers.map((container) => this.#end(container, graceMs)));
    if (sandbox.exitedAt === undefined) {
      sandbox.exitedAt = nowMoment();
      // Only now: a shim that dies while it stops leaves a sandbox that is to be stopped again.
      await record(sandbox);
    }
    sandbox.ended.resolve(sandbox.exitedAt);
  }

  /** Ends a container's processes: asked first when there is a grace, then killed. */
  async #end({ id, init }: Container, graceMs: number): Promise<void> {
    if (init.status === "stopped") return;
    const failed = (doing: string) => (error: unknown) => {
      this.#options.log.warn(`failed to ${doing} container of sandbox`, { id, error: messageOf(error) });
    };
    const gone = init.ended.then(() => undefined);
    // What is frozen cannot end.
    const thaw = async (): Promise<void> => {
      if (init.status === "paused") await init.resume().catch(failed("resume"));
    };
    await thaw();
    if (graceMs > 0) {
      await init.kill(SIGTERM, false).catch(failed("terminate"));
      if (await settledWithin(gone, graceMs)) return;
    }
    for (const until = performance.now() + KILLED_MS; performance.now() < until; ) {
      await thaw(); // somebody may have paused it meanwhile
      await init.kill(SIGKILL, true).catch(failed("kill"));
      if (await settledWithin(gone, KILLED_AGAIN_MS)) return;
    }
    throw classified(
      "deadline-exceeded",
      `stop sandbox: container ${id} (pid ${init.pid}) is still there ${KILLED_MS / 1_000} s after SIGKILL`,
    );
  }

  #info(sandbox: Sandbox): Record<string, string> {
    const { bundlePath, netnsPath, annotations } = sandbox;
    const containers = this.#options.tasks.containers.map(({ id, init }) => ({
      id,
      pid: init.pid,
      status: init.status,
    }));
    return {
      bundle: bundlePath,
      shimPid: String(process.pid),
      containers: JSON.stringify(containers),
      ...(netnsPath === "" ? {} : { netnsPath }),
      ...(Object.keys(annotations).length === 0 ? {} : { annotations: JSON.stringify(annotations) }),
    };
  }

  #unmount({ sandboxId: id, rootfsPath }: Sandbox): void {
    if (rootfsPath === "") return;
    try {
      unmountRecursive(rootfsPath, { flags: MNT.DETACH });
    } catch (error) {
      this.#options.log.warn("failed to unmount rootfs of sandbox", { id, error: messageOf(error) });
    }
  }

  /** @throws not-found */
  #find(id: string): Sandbox {
    if (this.#sandbox?.sandboxId === id) return this.#sandbox;
    throw classified("not-found", `sandbox ${id}: not found`);
  }
}

/** A sandbox that a shim which died has left, as it was. */
function restored(made: Sandbox, before: SandboxRecord): Sandbox {
  const { mounted, ...kept } = before;
  const sandbox = { ...made, ...kept, rootfsPath: mounted ? join(made.bundlePath, BUNDLE.rootfs) : "" };
  if (kept.exitedAt !== undefined) sandbox.ended.resolve(kept.exitedAt);
  return sandbox;
}

async function record(sandbox: Sandbox): Promise<void> {
  const { bundlePath, createdAt, phase, exitedAt, netnsPath, annotations, rootfsPath } = sandbox;
  const mounted = rootfsPath !== "";
  await writeSandboxRecord(bundlePath, { createdAt, phase, exitedAt, netnsPath, annotations, mounted });
}
