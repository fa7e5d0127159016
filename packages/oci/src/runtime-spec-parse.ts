import {
  type Check,
  expectConforming,
  isAnything,
  isBoolean,
  isInteger,
  isSafeInteger,
  isString,
  listOf,
  optional,
  recordOf,
  shape,
  withoutNulls,
} from "./json-check.ts";
import { parseJson } from "./json-lossless.ts";
import type {
  Capabilities,
  DeviceCgroup,
  Hook,
  Hooks,
  IdMapping,
  Linux,
  LinuxDevice,
  LinuxNamespace,
  LinuxResources,
  Process,
  Rlimit,
  Root,
  Seccomp,
  SeccompArg,
  SeccompSyscall,
  Spec,
  SpecMount,
  User,
} from "./runtime-spec.ts";

/**
 * Readers of the runtime spec for those who look into it: every field our types name is checked, null counts as absent
 * as in Go, and unknown fields stay on the result. A spec that is only passed on is not read: its bytes are.
 */

/** Most bytes of a spec that are read: gRPC's largest message, in which it came. */
const MAX_SPEC_SIZE = 16 << 20;

/** Reads a config.json. @throws invalid-argument telling which field is wrong. */
export function parseSpec(bytes: Uint8Array): Spec {
  return expectConforming<Spec>(read(bytes), "runtime spec", SPEC);
}

/** Reads the process of an exec. @throws invalid-argument */
export function parseProcess(bytes: Uint8Array): Process {
  return expectConforming<Process>(read(bytes), "runtime spec process", PROCESS);
}

/** Reads the resources of an update. @throws invalid-argument */
export function parseLinuxResources(bytes: Uint8Array): LinuxResources {
  return expectConforming<LinuxResources>(read(bytes), "runtime spec resources", RESOURCES);
}

function read(bytes: Uint8Array): unknown {
  return withoutNulls(parseJson(bytes, { maxSize: MAX_SPEC_SIZE }));
}

const text = optional(isString);
const texts = optional(listOf(isString));
const flag = optional(isBoolean);
const integer = optional(isInteger);
const small = optional(isSafeInteger);

const USER = shape<User>({
  uid: isSafeInteger,
  gid: isSafeInteger,
  umask: small,
  additionalGids: optional(listOf(isSafeInteger)),
  username: text,
});

/** Go writes user and cwd always; the spec requires both. */
const PROCESS = shape<Process>({
  terminal: flag,
  consoleSize: optional(shape<{ height: number; width: number }>({ height: isSafeInteger, width: isSafeInteger })),
  user: USER,
  args: texts,
  env: texts,
  cwd: isString,
  capabilities: optional(
    shape<Capabilities>({ bounding: texts, effective: texts, inheritable: texts, permitted: texts, ambient: texts }),
  ),
  rlimits: optional(listOf(shape<Rlimit>({ type: isString, hard: isInteger, soft: isInteger }))),
  noNewPrivileges: flag,
  apparmorProfile: text,
  oomScoreAdj: small,
  selinuxLabel: text,
});

const MAPPINGS = optional(
  listOf(shape<IdMapping>({ containerID: isSafeInteger, hostID: isSafeInteger, size: isSafeInteger })),
);

const MOUNT = shape<SpecMount>({
  destination: isString,
  type: text,
  source: text,
  options: texts,
  uidMappings: MAPPINGS,
  gidMappings: MAPPINGS,
});

const HOOKS: Check = optional(listOf(shape<Hook>({ path: isString, args: texts, env: texts, timeout: small })));

const DEVICE_CGROUP = shape<DeviceCgroup>({ allow: isBoolean, type: text, major: small, minor: small, access: text });

type Memory = NonNullable<LinuxResources["memory"]>;
type Cpu = NonNullable<LinuxResources["cpu"]>;
type Pids = NonNullable<LinuxResources["pids"]>;
type HugePages = NonNullable<LinuxResources["hugepageLimits"]>[number];
type IntelRdt = NonNullable<Linux["intelRdt"]>;

const RESOURCES = shape<LinuxResources>({
  devices: optional(listOf(DEVICE_CGROUP)),
  memory: optional(
    shape<Memory>({
      limit: integer,
      reservation: integer,
      swap: integer,
      kernel: integer,
      kernelTCP: integer,
      swappiness: integer,
      disableOOMKiller: flag,
      useHierarchy: flag,
      checkBeforeUpdate: flag,
    }),
  ),
  cpu: optional(
    shape<Cpu>({
      shares: integer,
      quota: integer,
      burst: integer,
      period: integer,
      realtimeRuntime: integer,
      realtimePeriod: integer,
      cpus: text,
      mems: text,
      idle: integer,
    }),
  ),
  pids: optional(shape<Pids>({ limit: isInteger })),
  blockIO: optional(recordOf(isAnything)),
  hugepageLimits: optional(listOf(shape<HugePages>({ pageSize: isString, limit: isInteger }))),
  unified: optional(recordOf(isString)),
});

const SECCOMP = shape<Seccomp>({
  defaultAction: isString,
  defaultErrnoRet: small,
  architectures: texts,
  flags: texts,
  listenerPath: text,
  listenerMetadata: text,
  syscalls: optional(
    listOf(
      shape<SeccompSyscall>({
        names: listOf(isString),
        action: isString,
        errnoRet: small,
        args: optional(
          listOf(shape<SeccompArg>({ index: isSafeInteger, value: isInteger, valueTwo: integer, op: isString })),
        ),
      }),
    ),
  ),
});

const DEVICE = shape<LinuxDevice>({
  path: isString,
  type: isString,
  major: isSafeInteger,
  minor: isSafeInteger,
  fileMode: small,
  uid: small,
  gid: small,
});

const LINUX = shape<Linux>({
  uidMappings: MAPPINGS,
  gidMappings: MAPPINGS,
  sysctl: optional(recordOf(isString)),
  resources: optional(RESOURCES),
  cgroupsPath: text,
  namespaces: optional(listOf(shape<LinuxNamespace>({ type: isString, path: text }))),
  devices: optional(listOf(DEVICE)),
  seccomp: optional(SECCOMP),
  rootfsPropagation: text,
  maskedPaths: texts,
  readonlyPaths: texts,
  mountLabel: text,
  intelRdt: optional(shape<IntelRdt>({ closID: text, l3CacheSchema: text, memBwSchema: text })),
});

const SPEC = shape<Spec>({
  ociVersion: isString,
  process: optional(PROCESS),
  root: optional(shape<Root>({ path: isString, readonly: flag })),
  hostname: text,
  domainname: text,
  mounts: optional(listOf(MOUNT)),
  hooks: optional(
    shape<Hooks>({
      prestart: HOOKS,
      createRuntime: HOOKS,
      createContainer: HOOKS,
      startContainer: HOOKS,
      poststart: HOOKS,
      poststop: HOOKS,
    }),
  ),
  annotations: optional(recordOf(isString)),
  linux: optional(LINUX),
});
