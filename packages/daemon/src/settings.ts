/** The configuration of one daemon: file, imports and flags together, read once at start. */
import type { DaemonArguments } from "./arguments.ts";
import { DEFAULT_CONFIG_PATH } from "./arguments.ts";
import { type LoadedConfig, loadConfig } from "./config/load.ts";
import { flagAt, numberAt, sectionAt, textAt, textsAt } from "./config/read.ts";
import { isTable, type TomlTable } from "./config/types.ts";

export interface Settings {
  readonly root: string;
  readonly state: string;
  readonly temp: string;
  readonly oomScore: number;
  readonly cgroupPath: string;
  readonly logLevel: string;
  readonly logFormat: string;
  readonly logTraceId: boolean;
  readonly disabled: readonly string[];
  readonly required: readonly string[];
  /** Go durations by name (`io.containerd.timeout.shim.load`). */
  readonly timeouts: Readonly<Record<string, unknown>>;
  readonly streamProcessors: Readonly<Record<string, unknown>>;
  readonly proxyPlugins: Readonly<Record<string, unknown>>;
  /** A plugin's section, by full name; empty for one that has none. */
  readonly pluginConfig: (name: string) => Readonly<Record<string, unknown>>;
  /** The whole, for `config dump`. */
  readonly config: TomlTable;
  readonly loaded: LoadedConfig;
}

/** Loads the configuration and puts the flags over it. @throws as loadConfig */
export async function loadSettings(args: DaemonArguments): Promise<Settings> {
  const loaded = await loadConfig(args.configPath ?? DEFAULT_CONFIG_PATH, { optional: args.configPath === undefined });
  const config: TomlTable = { ...loaded.config };
  if (args.root !== undefined) config["root"] = args.root;
  if (args.state !== undefined) config["state"] = args.state;
  if (args.logLevel !== undefined) config["debug"] = { ...tableOf(config["debug"]), level: args.logLevel };
  const plugins: TomlTable = { ...tableOf(config["plugins"]) };
  placeSockets(plugins, { args, state: textAt(config, "state"), given: loaded.given });
  config["plugins"] = plugins;
  const debug = sectionAt(config, "debug");
  return {
    root: textAt(config, "root"),
    state: textAt(config, "state"),
    temp: textAt(config, "temp"),
    oomScore: numberAt(config, "oom_score"),
    cgroupPath: textAt(sectionAt(config, "cgroup"), "path"),
    logLevel: textAt(debug, "level"),
    logFormat: textAt(debug, "format"),
    logTraceId: flagAt(debug, "log_trace_id"),
    disabled: textsAt(config, "disabled_plugins"),
    required: textsAt(config, "required_plugins"),
    timeouts: sectionAt(config, "timeouts"),
    streamProcessors: sectionAt(config, "stream_processors"),
    proxyPlugins: sectionAt(config, "proxy_plugins"),
    pluginConfig: (name) => sectionAt(plugins, name),
    config,
    loaded,
  };
}

const GRPC = "io.containerd.server.v1.grpc";
const TTRPC = "io.containerd.server.v1.ttrpc";
const DEFAULT_TTRPC = "/run/containerd/containerd.sock.ttrpc";

// `--address` moves the gRPC socket, and the ttrpc socket stays beside it unless the file placed it elsewhere.
function placeSockets(
  plugins: TomlTable,
  of: { readonly args: DaemonArguments; readonly state: string; readonly given: ReadonlyMap<string, string> },
): void {
  const grpc = { ...tableOf(plugins[GRPC]) };
  const ttrpc = { ...tableOf(plugins[TTRPC]) };
  if (of.args.address !== undefined) grpc["address"] = of.args.address;
  const placed = ttrpc["address"] !== DEFAULT_TTRPC && ttrpc["address"] !== "";
  if (!placed) {
    ttrpc["address"] = `${textAt(grpc, "address")}.ttrpc`;
    // One that nobody placed belongs to whom the other does, as in the peer.
    for (const owner of ["uid", "gid"] as const) {
      if (ttrpc[owner] === 0 && grpc[owner] !== undefined) ttrpc[owner] = grpc[owner];
    }
  }
  plugins[GRPC] = grpc;
  plugins[TTRPC] = ttrpc;
}

function tableOf(value: unknown): TomlTable {
  return isTable(value) ? value : {};
}
