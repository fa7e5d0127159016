/** The spec that the flags of `ctr run` and `ctr containers create` ask for. */
import { readFile } from "node:fs/promises";
import { hostname } from "node:os";
import { resolve } from "node:path";
import { withContext } from "@stevedore/base";
import type { ImageConfig } from "@stevedore/oci/manifest";
import type { IdMapping, Spec } from "@stevedore/oci/runtime-spec";
import { hostDevices } from "@stevedore/sdk/local/host-devices";
import type { SpecSource } from "@stevedore/sdk/local/new-container";
import { ownCapabilities } from "@stevedore/sdk/local/own-capabilities";
import { readUserFiles, readUserFilesIn } from "@stevedore/sdk/local/root-files";
import { SPEC_TYPE_URL } from "@stevedore/sdk/spec/any";
import { defaultDeviceRules, defaultSpec } from "@stevedore/sdk/spec/default-spec";
import { parseMountFlag } from "@stevedore/sdk/spec/mount-flag";
import * as spec from "@stevedore/sdk/spec/options";
import { defaultSeccomp } from "@stevedore/sdk/spec/seccomp";
import { resolveUser } from "@stevedore/sdk/spec/user";
import type { AnyValue } from "@stevedore/sdk/types";
import type { FlagValues } from "../kit/flags.ts";
import type { CONTAINER_FLAGS, RUN_FLAGS } from "./container-flags.ts";
import { parseLabelArgs } from "./labels.ts";

export type ContainerFlags = FlagValues<typeof CONTAINER_FLAGS>;
export type RunFlags = FlagValues<typeof RUN_FLAGS>;

export interface SpecRequest {
  readonly id: string;
  readonly namespace: string;
  readonly flags: ContainerFlags;
  /** Flags that only `ctr run` has; absent for `containers create`. */
  readonly run?: RunFlags;
  /** Ends what is started on the way. */
  readonly signal: AbortSignal;
  /** Told of what is not as asked for and no reason to stop. */
  readonly warn: (message: string) => void;
  /** Whether `--cgroup` was given, since "" means something. */
  readonly cgroupGiven: boolean;
  readonly args: readonly string[];
  /** Root file system of its own, with `--rootfs`. */
  readonly rootfs?: string;
}

/** CFS period in microseconds that containerd uses for `--cpus`. */
const CPU_PERIOD_US = 100_000;

/** A spec read from a file, byte for byte. */
export async function specFromFile(path: string): Promise<AnyValue> {
  return { typeUrl: SPEC_TYPE_URL, value: await readFile(path) };
}

/** Builds the spec. @throws invalid-argument for values that mean nothing */
export async function buildSpec(request: SpecRequest, source: SpecSource): Promise<Spec> {
  const { flags, run } = request;
  const made = defaultSpec({ id: request.id, namespace: request.namespace });
  spec.withDeviceRules(made, defaultDeviceRules());
  if (flags.envFile !== "") spec.withEnv(made, parseEnvFile(await readFile(flags.envFile, "utf8")));
  spec.withEnv(made, flags.env);
  const mounts = flags.mount.map(parseMountFlag);
  if (source.image === undefined) setCommand(made, request);
  else applyImage(made, source.image, request.args);
  if (request.rootfs !== undefined) made.root = { path: resolve(request.rootfs) };
  spec.withMounts(made, mounts);
  await applyUser(made, request, source);
  if (flags.readOnly) made.root = { ...(made.root ?? { path: "rootfs" }), readonly: true };
  if (flags.cwd !== "") spec.processOf(made).cwd = flags.cwd;
  if (flags.tty) spec.withTty(made);
  await applyPrivilege(made, request);
  if (flags.netHost) {
    spec.withHostNamespace(made, "network");
    spec.withHostNetworkFiles(made);
    spec.withEnv(made, [`HOSTNAME=${hostname()}`]);
  }
  applyAnnotations(made, flags);
  for (const value of flags.withNs) spec.withNamespacePath(made, parseNamespace(value));
  applyResources(made, request);
  await applySecurity(made, request);
  if (flags.gpus.length > 0) {
    const { gpuHook } = await import("@stevedore/sdk/local/gpus");
    spec.withPrestartHook(made, gpuHook(flags.gpus.map(gpuIndex), process.env));
  }
  await applyBlockIo(made, request);
  for (const path of flags.device) spec.withDevices(made, await hostDevices(path));
  if (flags.rootfsPropagation !== "") spec.withRootfsPropagation(made, flags.rootfsPropagation);
  if (flags.hostname !== "") made.hostname = flags.hostname;
  if (run !== undefined) applyUserNamespace(made, run);
  if (flags.seccomp) {
    spec.linuxOf(made).seccomp =
      flags.seccompProfile === "" ? defaultSeccomp(made) : parseProfile(await readFile(flags.seccompProfile, "utf8"));
  } else if (flags.seccompProfile !== "") {
    throw new Error("seccomp must be set to true, if using a custom seccomp-profile");
  }
  return made;
}

function setCommand(made: Spec, { args }: SpecRequest): void {
  spec.withImageProcess(made, { env: [], entrypoint: [], cmd: [], workingDir: "" }, args);
}

function applyImage(made: Spec, { config = {} }: ImageConfig, args: readonly string[]): void {
  spec.withImageProcess(
    made,
    {
      env: config.Env ?? [],
      entrypoint: config.Entrypoint ?? [],
      cmd: config.Cmd ?? [],
      workingDir: config.WorkingDir ?? "",
    },
    args,
  );
}

async function applyUser(made: Spec, request: SpecRequest, source: SpecSource): Promise<void> {
  const user = request.flags.user === "" ? (source.image?.config?.User ?? "") : request.flags.user;
  const none = { passwd: "", group: "" };
  let files = none;
  if (source.mounts !== undefined) files = await readUserFiles(await source.mounts);
  else if (request.rootfs !== undefined) files = readUserFilesIn(resolve(request.rootfs));
  spec.withUser(made, resolveUser(user, files));
}

async function applyPrivilege(made: Spec, { flags, run }: SpecRequest): Promise<void> {
  if (flags.privileged) {
    spec.withPrivileged(made, await ownCapabilities());
    if (run?.privilegedWithoutHostDevices !== true) {
      const devices = await hostDevices("/dev");
      spec.linuxOf(made).devices = devices;
      spec.withAllDevicesAllowed(made);
    }
  } else if (run?.privilegedWithoutHostDevices === true) {
    throw new Error("can't use 'privileged-without-host-devices' without 'privileged' specified");
  }
}

function applyAnnotations(made: Spec, flags: ContainerFlags): void {
  // Labels are annotations of the spec too, as in the peer.
  const annotations: Record<string, string> = { ...made.annotations, ...parseLabelArgs(flags.label) };
  for (const entry of flags.annotation) {
    const equals = entry.indexOf("=");
    if (equals <= 0) throw new Error(`invalid key=value format annotation: ${entry}`);
    annotations[entry.slice(0, equals)] = entry.slice(equals + 1);
  }
  if (Object.keys(annotations).length > 0) made.annotations = annotations;
}

function parseNamespace(value: string): { type: string; path: string } {
  const parts = value.split(":");
  const [type, path] = parts;
  if (parts.length !== 2 || type === undefined || path === undefined) {
    throw new Error("joining a Linux namespace using --with-ns requires the format 'nstype:path'");
  }
  if (!spec.JOINABLE_NAMESPACES.has(type)) {
    throw new Error(`the Linux namespace type specified in --with-ns is not valid: ${type}`);
  }
  return { type, path };
}

function applyResources(made: Spec, { flags, run, cgroupGiven }: SpecRequest): void {
  if (flags.memoryLimit !== 0) spec.withMemoryLimit(made, flags.memoryLimit);
  if (run !== undefined) {
    if (cgroupGiven) spec.linuxOf(made).cgroupsPath = run.cgroup;
    if (run.cpus > 0) spec.withCpu(made, { quota: Math.round(run.cpus * CPU_PERIOD_US), period: CPU_PERIOD_US });
    spec.withCpu(made, { shares: run.cpuShares });
    if (run.cpusetCpus !== "") spec.withCpu(made, { cpus: run.cpusetCpus });
    if (run.cpusetMems !== "") spec.withCpu(made, { mems: run.cpusetMems });
    if (run.rlimitNofile !== "") spec.withRlimit(made, parseNofile(run.rlimitNofile));
    if (run.cpus > 0 && (flags.cpuQuota > -1 || flags.cpuPeriod > 0)) {
      throw new Error("cpus and quota/period should be used separately");
    }
  }
  if (flags.cpuQuota > -1) spec.withCpu(made, { quota: flags.cpuQuota });
  if (flags.cpuPeriod > 0) spec.withCpu(made, { period: flags.cpuPeriod });
}

function parseNofile(text: string): { type: string; soft: bigint; hard: bigint } {
  const match = /^(\d+)(?::(\d+))?$/.exec(text);
  if (match?.[1] === undefined)
    throw new Error(`invalid --rlimit-nofile ${JSON.stringify(text)}, want <soft>[:<hard>]`);
  const soft = BigInt(match[1]);
  return { type: "RLIMIT_NOFILE", soft, hard: match[2] === undefined ? soft : BigInt(match[2]) };
}

async function applySecurity(made: Spec, { flags, signal }: SpecRequest): Promise<void> {
  if (flags.allowNewPrivs) delete spec.processOf(made).noNewPrivileges;
  spec.checkCapabilities([...flags.capAdd, ...flags.capDrop]);
  if (flags.capAdd.length > 0) spec.withAddedCapabilities(made, flags.capAdd);
  if (flags.capDrop.length > 0) spec.withDroppedCapabilities(made, flags.capDrop);
  if (flags.apparmorDefaultProfile !== "") {
    if (flags.apparmorProfile !== "") {
      throw new Error("apparmor-profile conflicts with apparmor-default-profile");
    }
    const { loadDefaultProfile } = await import("@stevedore/sdk/local/apparmor");
    await loadDefaultProfile(flags.apparmorDefaultProfile, signal);
    spec.processOf(made).apparmorProfile = flags.apparmorDefaultProfile;
  }
  if (flags.apparmorProfile !== "") spec.processOf(made).apparmorProfile = flags.apparmorProfile;
  if (flags.rdtClass !== "") spec.linuxOf(made).intelRdt = { closID: flags.rdtClass };
}

function gpuIndex(text: string): number {
  const index = Number(text);
  if (text === "" || !Number.isSafeInteger(index))
    throw new Error(`invalid value ${JSON.stringify(text)} for flag -gpus`);
  return index;
}

async function applyBlockIo(made: Spec, { flags, warn }: SpecRequest): Promise<void> {
  if (flags.blockioConfigFile === "" && flags.blockioClass === "") return;
  const { readBlockIoClasses } = await import("@stevedore/sdk/local/blockio");
  const classes =
    flags.blockioConfigFile === ""
      ? undefined
      : await readBlockIoClasses(flags.blockioConfigFile, warn).catch((error: unknown) => {
          throw withContext("blockio-config-file error", error);
        });
  if (flags.blockioClass === "") return;
  const limits = classes?.get(flags.blockioClass);
  if (limits === undefined) {
    const name = JSON.stringify(flags.blockioClass);
    throw new Error(`blockio-class error: no OCI BlockIO parameters for class ${name}`);
  }
  spec.withBlockIo(made, limits);
}

/** `container-id:host-id:length` */
export function parseMapping(text: string): IdMapping {
  const parts = text.split(":").map(Number);
  const [containerID, hostID, size] = parts;
  const whole = parts.length === 3 && parts.every((part) => Number.isSafeInteger(part) && part >= 0);
  if (!whole || containerID === undefined || hostID === undefined || size === undefined) {
    throw new Error(`invalid ID mapping ${JSON.stringify(text)}, want container-id:host-id:length`);
  }
  return { containerID, hostID, size };
}

function applyUserNamespace(made: Spec, run: RunFlags): void {
  const uid = run.uidmap.map(parseMapping);
  const gid = run.gidmap.map(parseMapping);
  if (uid.length === 0 && gid.length === 0) return;
  spec.withUserNamespace(made, { uid, gid });
}

function parseProfile(text: string): NonNullable<NonNullable<Spec["linux"]>["seccomp"]> {
  const profile: unknown = JSON.parse(text);
  if (
    typeof profile !== "object" ||
    profile === null ||
    !("defaultAction" in profile) ||
    typeof profile.defaultAction !== "string"
  ) {
    throw new Error("seccomp profile has no defaultAction");
  }
  return { ...profile, defaultAction: profile.defaultAction };
}

function parseEnvFile(text: string): string[] {
  return text
    .split("\n")
    .map((line) => line.trimStart())
    .filter((line) => line !== "" && !line.startsWith("#"))
    .map((line) => (line.includes("=") ? line : `${line}=${process.env[line] ?? ""}`));
}
