/**
 * Brings a file of an older version into the shape of version 4, as `containerd config migrate` does: version 1 named
 * plugins by their ids alone, version 2 by type and id, version 3 split the CRI and renamed monitors, version 4 made the
 * listeners plugins. Nothing is dropped silently: what has no place any more is reported.
 */
import { CONFIG_VERSION, isTable, type TomlTable, type TomlValue } from "./types.ts";

/** Plugin ids of version 1 and the full names they got. */
const VERSION_1_PLUGINS: Readonly<Record<string, string>> = {
  aufs: "io.containerd.snapshotter.v1.aufs",
  bolt: "io.containerd.metadata.v1.bolt",
  btrfs: "io.containerd.snapshotter.v1.btrfs",
  cgroups: "io.containerd.monitor.v1.cgroups",
  content: "io.containerd.content.v1.content",
  cri: "io.containerd.grpc.v1.cri",
  devmapper: "io.containerd.snapshotter.v1.devmapper",
  "diff-service": "io.containerd.service.v1.diff-service",
  linux: "io.containerd.runtime.v1.linux",
  native: "io.containerd.snapshotter.v1.native",
  opt: "io.containerd.internal.v1.opt",
  overlayfs: "io.containerd.snapshotter.v1.overlayfs",
  restart: "io.containerd.internal.v1.restart",
  scheduler: "io.containerd.gc.v1.scheduler",
  "tasks-service": "io.containerd.service.v1.tasks-service",
  task: "io.containerd.runtime.v2.task",
  walking: "io.containerd.differ.v1.walking",
  zfs: "io.containerd.snapshotter.v1.zfs",
};

/** Plugins that version 3 renamed. */
const VERSION_2_RENAMED: Readonly<Record<string, string>> = {
  "io.containerd.monitor.v1.cgroups": "io.containerd.monitor.task.v1.cgroups",
  "io.containerd.internal.v1.restart": "io.containerd.monitor.container.v1.restart",
};

/** Keys of the one CRI section of version 2 that version 3 put with the images. */
const CRI_IMAGE_KEYS = new Set([
  "max_concurrent_downloads",
  "image_pull_progress_timeout",
  "image_pull_with_sync_fs",
  "stats_collect_period",
  "registry",
  "image_decryption",
]);

const CRI_STREAM_KEYS = new Set([
  "disable_tcp_service",
  "stream_server_address",
  "stream_server_port",
  "stream_idle_timeout",
  "enable_tls_streaming",
  "x509_key_pair_streaming",
]);

const SHIM_MANAGER = "io.containerd.shim.v1.manager";

export interface Migrated {
  readonly config: TomlTable;
  /** The version the file had. */
  readonly from: number;
  /** What was given and has no effect any more, in words for the log. */
  readonly notes: readonly string[];
}

/** Migrates one file's table; `given` is not changed. */
export function migrate(given: TomlTable): Migrated {
  const from = versionOf(given);
  const notes: string[] = [];
  let config = structuredClone(given);
  if (from <= 1) config = toVersion2(config, notes);
  if (from <= 2) config = toVersion3(config, notes);
  if (from <= 3) config = toVersion4(config, notes);
  config["version"] = CONFIG_VERSION;
  return { config, from, notes };
}

/** The version of a file; a file without one is of version 1. */
export function versionOf(config: TomlTable): number {
  const version = config["version"];
  if (version === undefined) return 1;
  return typeof version === "number" ? version : Number.NaN;
}

/** Moves every plugin id of version 1 to its full name. */
function toVersion2(config: TomlTable, notes: string[]): TomlTable {
  const { subreaper, ...rest } = config;
  if (subreaper !== undefined) notes.push("subreaper is always on and has no effect");
  const plugins = tableAt(rest, "plugins");
  const named: TomlTable = {};
  for (const [id, section] of Object.entries(plugins)) named[VERSION_1_PLUGINS[id] ?? id] = section;
  if (Object.keys(named).length > 0) rest["plugins"] = named;
  for (const key of ["disabled_plugins", "required_plugins"]) {
    const list = rest[key];
    if (Array.isArray(list)) {
      rest[key] = list.map((id) => (typeof id === "string" ? (VERSION_1_PLUGINS[id] ?? id) : id));
    }
  }
  return rest;
}

function toVersion3(config: TomlTable, notes: string[]): TomlTable {
  const plugins = tableAt(config, "plugins");
  const moved: TomlTable = {};
  for (const [name, section] of Object.entries(plugins)) {
    if (name === "io.containerd.runtime.v1.linux") {
      notes.push("plugins.linux: runtime v1 has been removed; runc is run by io.containerd.runc.v2");
      if (isTable(section) && section["shim_debug"] === true) {
        moved[SHIM_MANAGER] = { ...tableAt(moved, SHIM_MANAGER), debug: true };
      }
    } else if (name === "io.containerd.grpc.v1.cri" && isTable(section)) {
      splitCri(section, moved);
    } else if (name === "io.containerd.runtime.v2.task" && isTable(section)) {
      const { sched_core, ...task } = section;
      if (sched_core === true) {
        moved[SHIM_MANAGER] = { ...tableAt(moved, SHIM_MANAGER), env: ["SCHED_CORE=1"] };
      }
      moved[name] = { ...tableAt(moved, name), ...task };
    } else {
      const to = VERSION_2_RENAMED[name] ?? name;
      moved[to] = isTable(section) ? { ...tableAt(moved, to), ...section } : section;
    }
  }
  for (const key of ["disabled_plugins", "required_plugins"]) {
    const list = config[key];
    if (Array.isArray(list)) {
      config[key] = list.map((name) => (typeof name === "string" ? (VERSION_2_RENAMED[name] ?? name) : name));
    }
  }
  if (Object.keys(moved).length > 0) config["plugins"] = moved;
  else delete config["plugins"];
  return config;
}

/** The CRI's one section becomes three: images, runtime and streaming. */
function splitCri(section: TomlTable, plugins: TomlTable): void {
  const images = tableAt(plugins, "io.containerd.cri.v1.images");
  const runtime = tableAt(plugins, "io.containerd.cri.v1.runtime");
  const streaming = tableAt(plugins, "io.containerd.grpc.v1.cri");
  for (const [key, value] of Object.entries(section)) {
    if (key === "sandbox_image") {
      images["pinned_images"] = { ...tableAt(images, "pinned_images"), sandbox: value };
    } else if (key === "containerd" && isTable(value)) {
      const { snapshotter, disable_snapshot_annotations, discard_unpacked_layers, ...containerd } = value;
      const toImages = { snapshotter, disable_snapshot_annotations, discard_unpacked_layers };
      for (const [name, moved] of Object.entries(toImages)) if (moved !== undefined) images[name] = moved;
      runtime["containerd"] = containerd;
    } else if (CRI_IMAGE_KEYS.has(key)) {
      images[key] = value;
    } else if (CRI_STREAM_KEYS.has(key)) {
      streaming[key] = value;
    } else {
      runtime[key] = value;
    }
  }
  if (Object.keys(images).length > 0) plugins["io.containerd.cri.v1.images"] = images;
  if (Object.keys(runtime).length > 0) plugins["io.containerd.cri.v1.runtime"] = runtime;
  if (Object.keys(streaming).length > 0) plugins["io.containerd.grpc.v1.cri"] = streaming;
}

/** The listeners become plugins. */
function toVersion4(config: TomlTable, notes: string[]): TomlTable {
  const { grpc, ttrpc, metrics, ...rest } = config;
  const plugins = tableAt(rest, "plugins");
  const put = (name: string, values: Record<string, TomlValue | undefined>): void => {
    const given = Object.entries(values).filter((entry): entry is [string, TomlValue] => entry[1] !== undefined);
    if (given.length > 0) plugins[name] = { ...Object.fromEntries(given), ...tableAt(plugins, name) };
  };
  if (isTable(grpc)) {
    const { tcp_address, tcp_tls_ca, tcp_tls_cert, tcp_tls_key, tcp_tls_common_name, ...unix } = grpc;
    put("io.containerd.server.v1.grpc", unix);
    put("io.containerd.server.v1.grpc-tcp", {
      address: tcp_address,
      tls_ca: tcp_tls_ca,
      tls_cert: tcp_tls_cert,
      tls_key: tcp_tls_key,
      tls_common_name: tcp_tls_common_name,
    });
  }
  if (isTable(ttrpc)) {
    const { address, ...others } = ttrpc;
    // Empty was the old word for "beside the gRPC socket".
    put("io.containerd.server.v1.ttrpc", { ...others, address: address === "" ? undefined : address });
  }
  if (isTable(metrics)) {
    put("io.containerd.server.v1.metrics", { address: metrics["address"] });
    put("io.containerd.metrics.v1.grpc-prometheus", { grpc_histogram: metrics["grpc_histogram"] });
  }
  const debug = rest["debug"];
  if (isTable(debug)) {
    const { address, uid, gid, ...logging } = debug;
    put("io.containerd.server.v1.debug", { address, uid, gid });
    rest["debug"] = logging;
  }
  if (rest["plugin_dir"] !== undefined && rest["plugin_dir"] !== "") {
    notes.push("plugin_dir: plugins in shared libraries cannot be loaded and have no effect");
  }
  if (Object.keys(plugins).length > 0) rest["plugins"] = plugins;
  return rest;
}

function tableAt(table: TomlTable, key: string): TomlTable {
  const value = table[key];
  return isTable(value) ? value : {};
}
