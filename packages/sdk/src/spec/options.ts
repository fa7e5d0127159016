/**
 * Changes to a spec, each what one request of a user means. They edit the spec in place and return it, so that a command
 * reads as a list of what was asked for.
 */
import { classified } from "@stevedore/base";
import type {
  DeviceCgroup,
  Hook,
  IdMapping,
  Linux,
  LinuxDevice,
  LinuxResources,
  Process,
  Spec,
  SpecInteger,
  SpecMount,
} from "@stevedore/oci/runtime-spec";
import { ALL_CAPABILITIES } from "./default-spec.ts";
import type { ResolvedUser } from "./user.ts";

/** The process of a spec, made when it has none. */
export function processOf(spec: Spec): Process {
  spec.process ??= { user: { uid: 0, gid: 0 }, cwd: "/" };
  return spec.process;
}

/** The Linux part of a spec, made when it has none. */
export function linuxOf(spec: Spec): Linux {
  spec.linux ??= {};
  return spec.linux;
}

function resourcesOf(spec: Spec): LinuxResources {
  const linux = linuxOf(spec);
  linux.resources ??= {};
  return linux.resources;
}

/**
 * Adds variables to an environment: `KEY=value` replaces or appends, a bare `KEY` removes.
 * The order of the base stays, as the peer keeps it.
 */
export function mergeEnv(base: readonly string[], added: readonly string[]): string[] {
  const result = [...base];
  for (const entry of added) {
    const equals = entry.indexOf("=");
    const key = equals < 0 ? entry : entry.slice(0, equals);
    const at = result.findIndex((candidate) => candidate === key || candidate.startsWith(`${key}=`));
    if (equals < 0) {
      if (at >= 0) result.splice(at, 1);
    } else if (at >= 0) {
      result[at] = entry;
    } else {
      result.push(entry);
    }
  }
  return result;
}

export function withEnv(spec: Spec, env: readonly string[]): Spec {
  if (env.length > 0) {
    const process = processOf(spec);
    process.env = mergeEnv(process.env ?? [], env);
  }
  return spec;
}

/** The part of an OCI image config that makes a process. */
export interface ImageProcess {
  readonly env: readonly string[];
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  readonly workingDir: string;
}

/** The search path of an image that sets none. */
export const DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/**
 * Takes command, environment and working directory from an image; `args` replaces the image's command and is put behind
 * its entry point. The user is resolved apart, since that needs the root file system.
 * @throws invalid-argument when neither the image nor the caller names a command
 */
export function withImageProcess(spec: Spec, image: ImageProcess, args: readonly string[]): Spec {
  const process = processOf(spec);
  const base = image.env.length > 0 ? image.env : [DEFAULT_PATH];
  process.env = mergeEnv(base, process.env ?? []);
  const command = [...image.entrypoint, ...(args.length > 0 ? args : image.cmd)];
  if (command.length === 0) throw classified("invalid-argument", "no arguments specified: invalid argument");
  process.args = command;
  process.cwd = image.workingDir === "" ? "/" : image.workingDir;
  return spec;
}

export function withUser(spec: Spec, user: ResolvedUser): Spec {
  const { umask } = processOf(spec).user;
  processOf(spec).user = {
    uid: user.uid,
    gid: user.gid,
    ...(umask === undefined ? {} : { umask }),
    additionalGids: [...user.additionalGids],
  };
  return spec;
}

export function withTty(spec: Spec): Spec {
  const process = processOf(spec);
  process.terminal = true;
  process.env = mergeEnv(process.env ?? [], ["TERM=xterm"]);
  return spec;
}

export function withMounts(spec: Spec, mounts: readonly SpecMount[]): Spec {
  spec.mounts = [...(spec.mounts ?? []), ...mounts];
  return spec;
}

/** Leaves the host's namespace of a type in place by not making a new one. */
export function withHostNamespace(spec: Spec, type: string): Spec {
  const linux = linuxOf(spec);
  linux.namespaces = (linux.namespaces ?? []).filter((namespace) => namespace.type !== type);
  return spec;
}

/** Joins the namespace at `path` in place of making a new one of that type. */
export function withNamespacePath(spec: Spec, namespace: { readonly type: string; readonly path: string }): Spec {
  const linux = linuxOf(spec);
  const others = (linux.namespaces ?? []).filter((candidate) => candidate.type !== namespace.type);
  linux.namespaces = [...others, { type: namespace.type, path: namespace.path }];
  return spec;
}

/** Adds a hook that runs when the container's namespaces are there and its process does not run yet. */
export function withPrestartHook(spec: Spec, hook: Hook): Spec {
  const hooks = spec.hooks ?? {};
  spec.hooks = { ...hooks, prestart: [...(hooks.prestart ?? []), hook] };
  return spec;
}

/** Limits of block devices, as runtimes take them. */
export function withBlockIo(spec: Spec, limits: object): Spec {
  resourcesOf(spec).blockIO = { ...limits };
  return spec;
}

/** The host's hosts and resolv.conf files, for containers in the host's network. */
export function withHostNetworkFiles(spec: Spec): Spec {
  return withMounts(
    spec,
    ["/etc/hosts", "/etc/resolv.conf"].map((path) => ({
      destination: path,
      type: "bind",
      source: path,
      options: ["rbind", "ro"],
    })),
  );
}

function setCapabilities(spec: Spec, change: (before: readonly string[]) => string[]): Spec {
  const process = processOf(spec);
  const before = process.capabilities ?? {};
  process.capabilities = {
    ...before,
    bounding: change(before.bounding ?? []),
    effective: change(before.effective ?? []),
    permitted: change(before.permitted ?? []),
  };
  return spec;
}

/**
 * Whether a kernel knows a capability is for the runtime to say.
 *
 * @throws invalid-argument for a name that cannot be one
 */
export function checkCapabilities(names: readonly string[]): void {
  for (const name of names) {
    if (!name.startsWith("CAP_")) {
      throw classified("invalid-argument", "capabilities must be specified with 'CAP_' prefix");
    }
  }
}

export function withAddedCapabilities(spec: Spec, names: readonly string[]): Spec {
  return setCapabilities(spec, (before) => [...new Set([...before, ...names])]);
}

export function withDroppedCapabilities(spec: Spec, names: readonly string[]): Spec {
  return setCapabilities(spec, (before) => before.filter((name) => !names.includes(name)));
}

/**
 * A privileged container: the capabilities the caller itself has, nothing masked or read-only, a writable sysfs and
 * cgroupfs, every device, no seccomp. Devices of the host are added apart.
 * @param capabilities what the caller may give; absent: all.
 */
export function withPrivileged(spec: Spec, capabilities: readonly string[] = ALL_CAPABILITIES): Spec {
  setCapabilities(spec, () => [...capabilities]);
  const linux = linuxOf(spec);
  delete linux.maskedPaths;
  delete linux.readonlyPaths;
  delete linux.seccomp;
  delete processOf(spec).apparmorProfile;
  delete processOf(spec).selinuxLabel;
  for (const mount of spec.mounts ?? []) {
    if (mount.type === "sysfs" || mount.type === "cgroup") {
      mount.options = (mount.options ?? []).map((option) => (option === "ro" ? "rw" : option));
    }
  }
  return spec;
}

/** Lets the container open every device. */
export function withAllDevicesAllowed(spec: Spec): Spec {
  resourcesOf(spec).devices = [{ allow: true, access: "rwm" }];
  return spec;
}

export function withDevices(spec: Spec, devices: readonly LinuxDevice[]): Spec {
  const linux = linuxOf(spec);
  linux.devices = [...(linux.devices ?? []), ...devices];
  const rules = devices.map(
    (device): DeviceCgroup => ({
      allow: true,
      type: device.type,
      major: device.major,
      minor: device.minor,
      access: "rwm",
    }),
  );
  const resources = resourcesOf(spec);
  resources.devices = [...(resources.devices ?? []), ...rules];
  return spec;
}

/** Adds device rules as they are. */
export function withDeviceRules(spec: Spec, rules: readonly DeviceCgroup[]): Spec {
  resourcesOf(spec).devices = [...rules];
  return spec;
}

export interface CpuRequest {
  readonly shares?: SpecInteger;
  readonly quota?: SpecInteger;
  readonly period?: SpecInteger;
  readonly cpus?: string;
  readonly mems?: string;
}

export function withCpu(spec: Spec, cpu: CpuRequest): Spec {
  const resources = resourcesOf(spec);
  resources.cpu = { ...resources.cpu, ...cpu };
  return spec;
}

/** `bytes` is the hard limit. */
export function withMemoryLimit(spec: Spec, bytes: SpecInteger): Spec {
  const resources = resourcesOf(spec);
  resources.memory = { ...resources.memory, limit: bytes };
  return spec;
}

export function withRlimit(
  spec: Spec,
  limit: { readonly type: string; readonly soft: SpecInteger; readonly hard: SpecInteger },
): Spec {
  const process = processOf(spec);
  process.rlimits = [...(process.rlimits ?? []).filter((other) => other.type !== limit.type), { ...limit }];
  return spec;
}

/** A new user namespace with these mappings. */
export function withUserNamespace(
  spec: Spec,
  mappings: { readonly uid: readonly IdMapping[]; readonly gid: readonly IdMapping[] },
): Spec {
  const linux = linuxOf(spec);
  const others = (linux.namespaces ?? []).filter((namespace) => namespace.type !== "user");
  linux.namespaces = [...others, { type: "user" }];
  linux.uidMappings = [...(linux.uidMappings ?? []), ...mappings.uid];
  linux.gidMappings = [...(linux.gidMappings ?? []), ...mappings.gid];
  return spec;
}

const PROPAGATIONS = new Set(["shared", "rshared", "slave", "rslave", "private", "rprivate"]);

/** @throws invalid-argument for a word that is no propagation */
export function withRootfsPropagation(spec: Spec, propagation: string): Spec {
  if (!PROPAGATIONS.has(propagation)) {
    throw classified(
      "invalid-argument",
      `rootfs propagation ${JSON.stringify(propagation)} not supported: invalid argument`,
    );
  }
  linuxOf(spec).rootfsPropagation = propagation;
  return spec;
}

/** Namespace types that may be joined by path. */
export const JOINABLE_NAMESPACES: ReadonlySet<string> = new Set([
  "pid",
  "network",
  "uts",
  "mount",
  "user",
  "ipc",
  "cgroup",
  "time",
]);
