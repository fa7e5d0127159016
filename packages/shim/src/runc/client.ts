import { decodeText, encodeText } from "@stevedore/base/bytes";
import { classified, messageOf } from "@stevedore/base/errors";
import { isJsonObject, parseJson } from "@stevedore/oci/json-lossless";
import { SIGKILL, signalName } from "@stevedore/os/signals";
import type { OutputTarget, StdinSource } from "@stevedore/os/spawn";
import { traceStep } from "../trace.ts";
import { lastLoggedError, logSize, RuntimeError } from "./errors.ts";

/** Where the runtime keeps its state unless the options say otherwise; the peer's folder. */
export const DEFAULT_RUNTIME_ROOT = "/run/containerd/runc";

/** The runtime that is called when the options name none. */
export const DEFAULT_RUNTIME = "runc";

/** What every call of a runtime has in common. */
export interface RuntimeSettings {
  /** Name or path of the binary; "" for {@link DEFAULT_RUNTIME}. */
  readonly command: string;
  /** State folder, the namespace included. */
  readonly root: string;
  /** The file the runtime logs to, as JSON. */
  readonly log: string;
  readonly systemdCgroup: boolean;
  /** The runtime's whole environment. */
  readonly env: Readonly<Record<string, string>>;
}

/** The stdio a runtime hands to the process it makes. Descriptors are borrowed. */
export interface RuntimeStdio {
  readonly stdin: StdinSource;
  readonly stdout: OutputTarget;
  readonly stderr: OutputTarget;
}

/** The runtime's own name for the first descriptor it is given beside its stdio. */
const EXTRA_FILE = "/proc/self/fd/3";

/** Stdio of a process that gets its terminal by a console socket, or has none. */
export const NO_STDIO: RuntimeStdio = { stdin: "null", stdout: "null", stderr: "null" };

export interface CreateCall {
  readonly bundle: string;
  readonly pidFile: string;
  readonly consoleSocket?: string;
  readonly noPivotRoot: boolean;
  readonly noNewKeyring: boolean;
  readonly stdio: RuntimeStdio;
}

export interface ExecCall {
  /** The OCI process, as JSON. */
  readonly process: string;
  readonly pidFile: string;
  readonly consoleSocket?: string;
  readonly stdio: RuntimeStdio;
}

export interface CheckpointCall {
  readonly imagePath: string;
  readonly workPath: string;
  readonly leaveRunning: boolean;
  readonly openTcp: boolean;
  readonly externalUnixSockets: boolean;
  readonly terminal: boolean;
  readonly fileLocks: boolean;
  readonly emptyNamespaces: readonly string[];
  readonly cgroupsMode: string;
}

export interface RestoreCall extends CreateCall {
  readonly imagePath: string;
  readonly workPath: string;
  readonly parentPath: string;
}

interface RunOptions {
  readonly stdio?: RuntimeStdio;
  readonly input?: Uint8Array;
  readonly extraFds?: readonly number[];
  /** Kills the runtime. */
  readonly signal?: AbortSignal;
}

/** The global arguments of every call. */
export function globalArguments(settings: RuntimeSettings): string[] {
  const args = ["--root", settings.root, "--log", settings.log, "--log-format", "json"];
  if (settings.systemdCgroup) args.push("--systemd-cgroup");
  return args;
}

function creationArguments(call: CreateCall): string[] {
  const args = ["--bundle", call.bundle];
  if (call.consoleSocket !== undefined) args.push("--console-socket", call.consoleSocket);
  args.push("--pid-file", call.pidFile);
  if (call.noPivotRoot) args.push("--no-pivot");
  if (call.noNewKeyring) args.push("--no-new-keyring");
  return args;
}

export function createArguments(id: string, call: CreateCall): string[] {
  return ["create", ...creationArguments(call), id];
}

export function execArguments(id: string, call: Omit<ExecCall, "process">, processFile: string): string[] {
  const args = ["exec", "--process", processFile];
  if (call.consoleSocket !== undefined) args.push("--console-socket", call.consoleSocket);
  return [...args, "--detach", "--pid-file", call.pidFile, id];
}

export function checkpointArguments(id: string, call: CheckpointCall): string[] {
  const args = ["checkpoint", "--image-path", call.imagePath, "--work-path", call.workPath];
  if (call.openTcp) args.push("--tcp-established");
  if (call.externalUnixSockets) args.push("--ext-unix-sk");
  if (call.terminal) args.push("--shell-job");
  if (call.fileLocks) args.push("--file-locks");
  if (call.cgroupsMode !== "") args.push("--manage-cgroups-mode", call.cgroupsMode);
  for (const namespace of call.emptyNamespaces) args.push("--empty-ns", namespace);
  if (call.leaveRunning) args.push("--leave-running");
  return [...args, id];
}

export function restoreArguments(id: string, call: RestoreCall): string[] {
  const args = ["restore", "--image-path", call.imagePath, "--work-path", call.workPath];
  if (call.parentPath !== "") args.push("--parent-path", call.parentPath);
  return [...args, "--detach", "--no-subreaper", ...creationArguments(call), id];
}

/**
 * Calls the OCI runtime's command line. Failures are {@link RuntimeError} with what the runtime logged during the call;
 * a runtime that is not there is not-found. No call but a removal is cancelled half-way: a runtime that is killed leaves state behind.
 */
export class RuntimeClient {
  readonly settings: RuntimeSettings;

  constructor(settings: RuntimeSettings) {
    this.settings = settings;
  }

  async create(id: string, call: CreateCall): Promise<void> {
    await this.#run(createArguments(id, call), { stdio: call.stdio });
  }

  async start(id: string): Promise<void> {
    await this.#run(["start", id]);
  }

  async exec(id: string, call: ExecCall): Promise<void> {
    const { memoryFile, OwnedFd } = await import("@stevedore/os/fd");
    // In memory: no folder to make, nothing that a crash leaves behind.
    using process = new OwnedFd(memoryFile(encodeText(call.process)));
    await this.#run(execArguments(id, call, EXTRA_FILE), { stdio: call.stdio, extraFds: [process.fd] });
  }

  /** Sends a signal to init, or with `all` to every process of the container. */
  async kill(id: string, signal: number, all: boolean): Promise<void> {
    await this.#run(["kill", ...(all ? ["--all"] : []), id, String(signal)]);
  }

  /** Removes the container's state; with `force` it is killed first. A signal kills the runtime. */
  async delete(id: string, force: boolean, signal?: AbortSignal): Promise<void> {
    await this.#run(["delete", ...(force ? ["--force"] : []), id], signal === undefined ? {} : { signal });
  }

  async pause(id: string): Promise<void> {
    await this.#run(["pause", id]);
  }

  async resume(id: string): Promise<void> {
    await this.#run(["resume", id]);
  }

  /** @param resources OCI LinuxResources as JSON, passed on byte for byte. */
  async update(id: string, resources: Uint8Array): Promise<void> {
    await this.#run(["update", "--resources=-", id], { input: resources });
  }

  /** What the runtime has of a container: its status ("created", "running", "paused", "stopped") and its bundle. */
  async state(id: string): Promise<{ readonly status: string; readonly bundle: string }> {
    const parsed = parseJson(await this.#run(["state", id]));
    const { status, bundle } = isJsonObject(parsed) ? parsed : {};
    if (typeof status !== "string" || typeof bundle !== "string") {
      throw classified("unknown", `read state of ${id}: found no status or no bundle`);
    }
    return { status, bundle };
  }

  /** Pids of the container's processes, as the host sees them. */
  async ps(id: string): Promise<number[]> {
    const text = await this.#run(["ps", "--format", "json", id]);
    const start = text.indexOf("[");
    const parsed = start < 0 ? [] : parseJson(text.slice(start));
    // runc prints null for a container without processes.
    if (!Array.isArray(parsed)) return [];
    return parsed.filter((pid) => typeof pid === "number");
  }

  async checkpoint(id: string, call: CheckpointCall): Promise<void> {
    await this.#run(checkpointArguments(id, call));
  }

  async restore(id: string, call: RestoreCall): Promise<void> {
    await this.#run(restoreArguments(id, call), { stdio: call.stdio });
  }

  /** What `features` says, as the JSON text. */
  async features(): Promise<string> {
    const text = await this.#run(["features"]);
    if (!isJsonObject(parseJson(text))) throw classified("unknown", "read runtime features: no JSON object");
    return text;
  }

  async #run(args: readonly string[], options: RunOptions = {}): Promise<string> {
    const command = this.settings.command === "" ? DEFAULT_RUNTIME : this.settings.command;
    return traceStep(`runtime.${args[0] ?? ""}`, { "runtime.command": command }, async () =>
      this.#runNow(command, args, options),
    );
  }

  async #runNow(command: string, args: readonly string[], options: RunOptions): Promise<string> {
    const { readChunks } = await import("@stevedore/os/io");
    const { spawnChild } = await import("@stevedore/os/spawn");
    const { settings } = this;
    const from = logSize(settings.log);
    const { stdio, input, extraFds = [], signal } = options;
    const cut = signal === undefined ? {} : { signal };
    // With stdio of its own the runtime's output is not ours to read: the container holds it after the runtime's end.
    const child = spawnChild([command, ...globalArguments(settings), ...args], {
      env: settings.env,
      extraFds,
      ...cut,
      killSignal: SIGKILL,
      searchPath: settings.env["PATH"] ?? DEFAULT_PATH,
      ...(stdio ?? {
        stdin: input === undefined ? "null" : { bytes: input },
        stdout: "pipe",
        stderr: "stdout",
      }),
    });
    try {
      const output = child.stdout === undefined ? "" : await collect(readChunks(child.stdout.release(), cut));
      const status = await child.exited;
      if (status.code === 0) return output;
      throw await this.#failure(command, { ...status, output, from });
    } finally {
      child.dispose();
    }
  }

  async #failure(
    command: string,
    run: { readonly code: number; readonly signal?: number; readonly output: string; readonly from: number },
  ): Promise<RuntimeError> {
    const how = run.signal === undefined ? `exit status ${run.code}` : `signal: ${signalName(run.signal)}`;
    let logged = "";
    let logTrouble = "";
    try {
      logged = await lastLoggedError(this.settings.log, run.from);
    } catch (error) {
      logTrouble = messageOf(error);
    }
    return new RuntimeError({ command, how, output: run.output.trim(), logged, logTrouble });
  }
}

/** Where commands are looked for when the shim was given no PATH; Debian's for root. */
export const DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** What is kept of a runtime's output: its lists of pids and its complaints are far smaller. */
const MAX_OUTPUT_BYTES = 1 << 20;

async function collect(chunks: AsyncIterable<Uint8Array>): Promise<string> {
  let text = "";
  for await (const chunk of chunks) if (text.length < MAX_OUTPUT_BYTES) text += decodeText(chunk);
  return text;
}
