/** Tasks: the shim manager with what this daemon tells its shims. */
import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { inheritedNofile, NOFILE_VARIABLE } from "@stevedore/os/rlimit";
import { pickEnvironment } from "@stevedore/os/spawn";
import { PluginType } from "@stevedore/plugins/ids";
import {
  DEFAULT_TIMEOUTS,
  SandboxShims,
  ShimTaskManager,
  type ShimTimeouts,
} from "@stevedore/plugins/shim-manager/index";
import { durationMs } from "./config/duration.ts";
import { sectionAt, textAt, textsAt } from "./config/read.ts";
import type { PluginContext } from "./graph.ts";
import { Key, type ShimManager } from "./keys.ts";
import { workerCommand } from "./self.ts";

export interface ShimManagerRequest {
  readonly root: string;
  readonly state: string;
  readonly grpcAddress: string;
  readonly ttrpcAddress: string;
  readonly version: string;
  readonly debug: boolean;
  readonly timeouts: Readonly<Record<string, unknown>>;
  readonly context: PluginContext;
}

/** What of the daemon's environment its shims get; a daemon's own settings must not leak into containers' helpers. */
const SHIM_ENVIRONMENT = [
  "PATH",
  "LD_LIBRARY_PATH",
  "HOME",
  "LANG",
  "LC_ALL",
  "TMPDIR",
  "XDG_RUNTIME_DIR",
  "HTTP_PROXY",
  "HTTPS_PROXY",
  "NO_PROXY",
];

/** Starts the managers of tasks and sandboxes, and the search for those of an earlier daemon. */
export async function startShimManager(request: ShimManagerRequest): Promise<ShimManager> {
  const { root, state, context } = request;
  const folders = (id: string) => ({ root: join(root, id), state: join(state, id) });
  const own = sectionAt(context.config, "stevedore");
  const common = {
    events: context.get(Key.events),
    grpcAddress: request.grpcAddress,
    ttrpcAddress: request.ttrpcAddress,
    publishBinary: publishBinary(),
    version: request.version,
    socketDir: textAt(context.config, "socket_dir"),
    // The key of runtime v1, kept for files that have it; by default shims are as talkative as the daemon.
    debug: request.debug || context.config["debug"] === true,
    env: shimEnvironment(textsAt(context.config, "env")),
    searchPath: process.env["PATH"] ?? "",
    self: process.execPath,
    timeouts: timeoutsOf(request.timeouts),
    log: context.log,
  };
  const { containers, sandboxes: store } = context.get(Key.metadata);
  const sandboxes = new SandboxShims({
    ...common,
    folders: folders(`${PluginType.sandboxController}.shim`),
    store,
    tasks: {
      get calls() {
        return tasks.calls;
      },
      has: (caller, id) => tasks.has(caller, id),
      adopts: (path) => tasks.adopts(path),
      endTasksAt: (namespace, address) => tasks.endTasksAt(namespace, address),
    },
  });
  const tasks = new ShimTaskManager({
    ...common,
    ...folders(`${PluginType.runtime}.task`),
    containers,
    sandboxes: { store, hosts: sandboxes },
    keeper: workerCommand("keeper"),
    adopt: own["adopt"] !== false,
    spare: own["spare"] !== false,
    isolated: isolatedRuntimes(own["isolated"]),
  });
  sandboxes.load();
  tasks.load();
  context.cleanup.defer(async () => sandboxes.close());
  context.cleanup.defer(async () => tasks.close());
  return { tasks, sandboxes };
}

/** `isolated` of the config: true for all runtimes, or the names of some. */
function isolatedRuntimes(given: unknown): (runtime: string) => boolean {
  if (Array.isArray(given)) return (runtime) => given.includes(runtime);
  return () => given === true;
}

function shimEnvironment(extra: readonly string[]): Record<string, string> {
  // Shims that trace are told by the same variables as the daemon.
  const otel = Object.keys(process.env).filter((name) => name.startsWith("OTEL_"));
  const env = pickEnvironment([...SHIM_ENVIRONMENT, ...otel]);
  // Bun raises the limit of open files; shims and containers get what this daemon was started with.
  const { soft, hard } = inheritedNofile();
  env[NOFILE_VARIABLE] = `${soft}:${hard}`;
  for (const entry of extra) {
    const equals = entry.indexOf("=");
    if (equals > 0) env[entry.slice(0, equals)] = entry.slice(equals + 1);
  }
  return env;
}

/** The `containerd` whose `publish` shims may call: this program by the name it answers to. */
function publishBinary(): string {
  const called = process.argv0.includes("/") ? resolve(process.argv0) : "";
  if (called.endsWith("/containerd") && existsSync(called)) return called;
  const beside = join(dirname(process.execPath), "containerd");
  return existsSync(beside) ? beside : "containerd";
}

function timeoutsOf(given: Readonly<Record<string, unknown>>): ShimTimeouts {
  const at = (name: string, otherwise: number): number => {
    const key = `io.containerd.timeout.${name}`;
    const value = given[key];
    return typeof value === "string" ? durationMs(value, key) : otherwise;
  };
  return {
    load: at("shim.load", DEFAULT_TIMEOUTS.load),
    cleanup: at("shim.cleanup", DEFAULT_TIMEOUTS.cleanup),
    shutdown: at("shim.shutdown", DEFAULT_TIMEOUTS.shutdown),
    state: at("task.state", DEFAULT_TIMEOUTS.state),
    stats: at("metrics.shimstats", DEFAULT_TIMEOUTS.stats),
  };
}
