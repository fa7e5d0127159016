import { boolFlag, floatFlag, intFlag, stringFlag, stringsFlag } from "../kit/flags.ts";

/** Flags that say which runtime runs a container and how. */
export const RUNTIME_FLAGS = {
  runtime: stringFlag("runtime", "runtime name or absolute path to runtime binary", {
    initial: "io.containerd.runc.v2",
  }),
  runtimeConfigPath: stringFlag("runtime-config-path", "optional runtime config path"),
  runcBinary: stringFlag("runc-binary", "specify runc-compatible binary"),
  runcRoot: stringFlag("runc-root", "specify runc-compatible root"),
  runcSystemdCgroup: boolFlag("runc-systemd-cgroup", "start runc with systemd cgroup manager"),
};

/** Flags about the snapshot under a container. */
export const SNAPSHOTTER_FLAGS = {
  snapshotter: stringFlag("snapshotter", "snapshotter name. Empty value stands for the default value.", {
    env: ["CONTAINERD_SNAPSHOTTER"],
  }),
  snapshotterLabel: stringsFlag("snapshotter-label", "labels added to the new snapshot for this container."),
};

/** Flags of `ctr run` and `ctr containers create` that shape the container. */
export const CONTAINER_FLAGS = {
  ...RUNTIME_FLAGS,
  ...SNAPSHOTTER_FLAGS,
  config: stringFlag("config", "path to the runtime-specific spec config file", { aliases: ["c"] }),
  cwd: stringFlag("cwd", "specify the working directory of the process"),
  env: stringsFlag("env", "specify additional container environment variables (e.g. FOO=bar)"),
  envFile: stringFlag(
    "env-file",
    "specify additional container environment variables in a file(e.g. FOO=bar, one per line)",
  ),
  label: stringsFlag("label", "specify additional labels (e.g. foo=bar)"),
  annotation: stringsFlag("annotation", "specify additional OCI annotations (e.g. foo=bar)"),
  mount: stringsFlag(
    "mount",
    "specify additional container mount (e.g. type=bind,src=/tmp,dst=/host,options=rbind:ro)",
  ),
  netHost: boolFlag("net-host", "enable host networking for the container"),
  privileged: boolFlag("privileged", "run privileged container"),
  readOnly: boolFlag("read-only", "set the containers filesystem as readonly"),
  sandbox: stringFlag("sandbox", "create the container in the given sandbox"),
  tty: boolFlag("tty", "allocate a TTY for the container", { aliases: ["t"] }),
  withNs: stringsFlag(
    "with-ns",
    "specify existing Linux namespaces to join at container runtime (format '<nstype>:<path>')",
  ),
  pidFile: stringFlag("pid-file", "file path to write the task's pid"),
  gpus: stringsFlag("gpus", "add gpus to the container"),
  allowNewPrivs: boolFlag("allow-new-privs", "turn off OCI spec's NoNewPrivileges feature flag"),
  memoryLimit: intFlag("memory-limit", "memory limit (in bytes) for the container", { unsigned: true }),
  capAdd: stringsFlag("cap-add", "add Linux capabilities (Set capabilities with 'CAP_' prefix)"),
  capDrop: stringsFlag("cap-drop", "drop Linux capabilities (Set capabilities with 'CAP_' prefix)"),
  seccomp: boolFlag("seccomp", "enable the default seccomp profile"),
  seccompProfile: stringFlag(
    "seccomp-profile",
    "file path to custom seccomp profile. seccomp must be set to true, before using seccomp-profile",
  ),
  apparmorDefaultProfile: stringFlag(
    "apparmor-default-profile",
    'enable AppArmor with the default profile with the specified name, e.g. "cri-containerd.apparmor.d"',
  ),
  apparmorProfile: stringFlag("apparmor-profile", "enable AppArmor with an existing custom profile"),
  blockioConfigFile: stringFlag("blockio-config-file", "file path to blockio class definitions"),
  blockioClass: stringFlag("blockio-class", "name of the blockio class to associate the container with"),
  rdtClass: stringFlag(
    "rdt-class",
    "name of the RDT class to associate the container with. Specifies a Class of Service (CLOS) for cache and memory bandwidth management.",
  ),
  hostname: stringFlag("hostname", "set the container's host name"),
  user: stringFlag("user", "username or user id, group optional (format: <name|uid>[:<group|gid>])", {
    aliases: ["u"],
  }),
  rootfs: boolFlag("rootfs", "use custom rootfs that is not managed by containerd snapshotter"),
  noPivot: boolFlag("no-pivot", "disable use of pivot-root (linux only)"),
  cpuQuota: intFlag("cpu-quota", "limit CPU CFS quota", { initial: -1 }),
  cpuPeriod: intFlag("cpu-period", "limit CPU CFS period", { unsigned: true }),
  rootfsPropagation: stringFlag("rootfs-propagation", "set the propagation of the container rootfs"),
  device: stringsFlag(
    "device",
    "file path to a device to add to the container; or a path to a directory tree of devices to add to the container",
  ),
};

/** Flags that only `ctr run` has. */
export const RUN_FLAGS = {
  rm: boolFlag("rm", "remove the container after running, cannot be used with --detach"),
  nullIo: boolFlag("null-io", "send all IO to /dev/null"),
  logUri: stringFlag("log-uri", "log uri"),
  detach: boolFlag("detach", "detach from the task after it has started execution, cannot be used with --rm", {
    aliases: ["d"],
  }),
  fifoDir: stringFlag("fifo-dir", "directory used for storing IO FIFOs"),
  cgroup: stringFlag("cgroup", 'cgroup path (To disable use of cgroup, set to "" explicitly)'),
  platform: stringFlag("platform", "run image for specific platform"),
  cni: boolFlag("cni", "enable cni networking for the container"),
  syncFs: boolFlag("sync-fs", "sync the underlying filesystem containing files when unpacking the image"),
  dumpConfig: stringFlag("dump-config", "write the container's spec to a file before it is run"),
  uidmap: stringsFlag(
    "uidmap",
    "run inside a user namespace with the specified UID mapping range; specified with the format container-uid:host-uid:length",
    { placeholder: "container-uid:host-uid:length" },
  ),
  gidmap: stringsFlag(
    "gidmap",
    "run inside a user namespace with the specified GID mapping range; specified with the format container-gid:host-gid:length",
    { placeholder: "container-gid:host-gid:length" },
  ),
  remapLabels: boolFlag(
    "remap-labels",
    "provide the user namespace ID remapping to the snapshotter via label options; requires snapshotter support",
  ),
  privilegedWithoutHostDevices: boolFlag(
    "privileged-without-host-devices",
    "don't pass all host devices to privileged container",
  ),
  cpus: floatFlag("cpus", "set the CFS cpu quota"),
  cpuShares: intFlag("cpu-shares", "set the cpu shares", { initial: 1024 }),
  cpusetCpus: stringFlag("cpuset-cpus", "set the CPUs the container will run in (e.g., 1-2,4)"),
  cpusetMems: stringFlag("cpuset-mems", "set the memory nodes the container will run in (e.g., 1-2,4)"),
  rlimitNofile: stringFlag("rlimit-nofile", "set RLIMIT_NOFILE, soft and hard (format: <soft>[:<hard>])"),
};
