import { constants, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { decodeText } from "@stevedore/base/bytes";
import { classified, messageOf } from "@stevedore/base/errors";
import { momentIn, momentText } from "@stevedore/base/moment";
import { isJsonObject, type JsonObject, type JsonValue, parseJson } from "@stevedore/oci/json-lossless";
import { readSmallFile } from "@stevedore/os/files";
import { DEFAULT_OPTIONS, type RuncOptions } from "./options.ts";

/** Names of the files a shim keeps in a bundle; clients and the daemon look for them. */
export const BUNDLE = {
  config: "config.json",
  rootfs: "rootfs",
  work: "work",
  address: "address",
  /** The daemon's record of how the shim is reached. */
  bootstrap: "bootstrap.json",
  options: "options.json",
  /** The runtime binary's name on its own, kept for older shims' `delete`. */
  runtime: "runtime",
  initPid: "init.pid",
  /** What criu is told beside its options, during a checkpoint or a restore. */
  criuConfig: "criu.conf",
  runcLog: "log.json",
  /** FIFO of the shim's own log. */
  log: "log",
  exitStatus: "exitstatus.json",
  socketDir: "s",
} as const;

/** Go's JSON names of the options, which is what options.json has always held. */
const OPTION_NAMES = {
  noPivotRoot: "no_pivot_root",
  noNewKeyring: "no_new_keyring",
  shimCgroup: "shim_cgroup",
  ioUid: "io_uid",
  ioGid: "io_gid",
  binaryName: "binary_name",
  root: "root",
  systemdCgroup: "systemd_cgroup",
  criuImagePath: "criu_image_path",
  criuWorkPath: "criu_work_path",
} as const satisfies Record<keyof RuncOptions, string>;

/** Writes options.json (mode 0600; fields that are unset are left out, as Go does) and the runtime file. */
export async function writeOptions(bundle: string, options: RuncOptions): Promise<void> {
  const object: Record<string, string | number | boolean> = {};
  for (const key of optionKeys()) {
    const value = options[key];
    if (value !== "" && value !== 0 && value !== false) object[OPTION_NAMES[key]] = value;
  }
  await Promise.all([
    writeFile(join(bundle, BUNDLE.options), JSON.stringify(object), { mode: 0o600 }),
    writeFile(join(bundle, BUNDLE.runtime), options.binaryName, { mode: 0o600 }),
  ]);
}

/** Reads options.json back; the defaults when there is none. @throws data-loss when it is damaged */
export async function readOptions(bundle: string): Promise<RuncOptions> {
  const text = await readIfThere(join(bundle, BUNDLE.options));
  if (text === undefined) {
    const binaryName = (await readIfThere(join(bundle, BUNDLE.runtime)))?.trim() ?? "";
    return { ...DEFAULT_OPTIONS, binaryName };
  }
  const object = parseObject(text, join(bundle, BUNDLE.options));
  const string = (key: keyof RuncOptions): string => {
    const value = object[OPTION_NAMES[key]];
    return typeof value === "string" ? value : "";
  };
  const number = (key: keyof RuncOptions): number => {
    const value = object[OPTION_NAMES[key]];
    return typeof value === "number" ? value : 0;
  };
  const flag = (key: keyof RuncOptions): boolean => object[OPTION_NAMES[key]] === true;
  return {
    noPivotRoot: flag("noPivotRoot"),
    noNewKeyring: flag("noNewKeyring"),
    shimCgroup: string("shimCgroup"),
    ioUid: number("ioUid"),
    ioGid: number("ioGid"),
    binaryName: string("binaryName"),
    root: string("root"),
    systemdCgroup: flag("systemdCgroup"),
    criuImagePath: string("criuImagePath"),
    criuWorkPath: string("criuWorkPath"),
  };
}

function optionKeys(): (keyof RuncOptions)[] {
  const keys: (keyof RuncOptions)[] = [];
  for (const key of Object.keys(OPTION_NAMES)) if (isOptionKey(key)) keys.push(key);
  return keys;
}

function isOptionKey(key: string): key is keyof RuncOptions {
  return key in OPTION_NAMES;
}

/** How a container's init ended, as kept in its bundle. */
export interface ExitRecord {
  readonly pid: number;
  readonly status: number;
  readonly exitedAt: Date;
}

const SYNCED_WRITE = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_SYNC;

/**
 * Writes the exit record and syncs it, so that it is there when anybody learns of the exit. The file's field names are
 * the peer's.
 */
export async function writeExitRecord(
  bundle: string,
  record: ExitRecord & { readonly source?: string; readonly reason?: string },
): Promise<void> {
  const { exitedAt, pid, status, source = "reaped", reason } = record;
  // The peer's fields, then ours: who saw it, and why the status is not known.
  const fields = { Timestamp: momentText(exitedAt), Pid: pid, Status: status, Source: source };
  const text = JSON.stringify(reason === undefined || reason === "" ? fields : { ...fields, Reason: reason });
  const path = join(bundle, BUNDLE.exitStatus);
  const temporary = `${path}.tmp`;
  // Synced as it is written: one trip to a thread instead of four.
  await writeFile(temporary, text, { flag: SYNCED_WRITE, mode: 0o600 });
  await rename(temporary, path);
}

/** The exit record of a bundle; undefined when there is none or it is no record. */
export async function readExitRecord(bundle: string): Promise<ExitRecord | undefined> {
  const text = await readIfThere(join(bundle, BUNDLE.exitStatus));
  if (text === undefined) return undefined;
  try {
    const { Timestamp: time, Pid: pid, Status: status } = parseObject(text, BUNDLE.exitStatus);
    if (typeof time !== "string" || typeof pid !== "number" || typeof status !== "number") return undefined;
    const exitedAt = momentIn(time);
    if (Number.isNaN(exitedAt.getTime()) || pid <= 0 || status < 0) return undefined;
    return { pid, status, exitedAt };
  } catch {
    return undefined;
  }
}

/** The pid in a pid file of the runtime. @throws not-found when there is none, data-loss when it is no pid */
export function readPidFile(path: string): number {
  const text = decodeText(readSmallFile(path));
  if (!/^\s*\d{1,10}\s*$/.test(text)) {
    throw classified("data-loss", `read pid file ${path}: found ${JSON.stringify(text.slice(0, 40))}, want a number`);
  }
  return Number(text);
}

/** What of a spec a shim looks at. */
export interface SpecFacts {
  readonly annotations: Readonly<Record<string, string>>;
  /** Whether the container gets a pid namespace of its own, so that the end of init ends all its processes. */
  readonly privatePidNamespace: boolean;
}

/** Reads the bundle's config.json. @throws Node's error when there is none; data-loss when it is damaged */
export async function readSpecFacts(bundle: string): Promise<SpecFacts> {
  const path = join(bundle, BUNDLE.config);
  const spec = parseObject(await readFile(path, "utf8"), path);
  const annotations: Record<string, string> = {};
  for (const [key, value] of Object.entries(asObject(spec["annotations"]))) {
    if (typeof value === "string") annotations[key] = value;
  }
  const namespaces = asObject(spec["linux"])["namespaces"];
  const privatePidNamespace =
    Array.isArray(namespaces) &&
    namespaces.some((entry) => {
      const namespace = asObject(entry);
      return namespace["type"] === "pid" && (namespace["path"] ?? "") === "";
    });
  return { annotations, privatePidNamespace };
}

/** Writes the older bootstrap's `address` file by rename, as the peer does. */
export async function writeAddress(bundle: string, address: string): Promise<void> {
  const path = join(bundle, BUNDLE.address);
  const temporary = join(dirname(path), `.${BUNDLE.address}`);
  await writeFile(temporary, address, { mode: 0o644 });
  await rename(temporary, path);
}

/** Keeps the folder of the shim's socket as a link in the bundle, as the peer's 2.3 shims do. */
export async function linkSocketDir(bundle: string, dir: string): Promise<void> {
  const path = join(bundle, BUNDLE.socketDir);
  try {
    await symlink(dir, path);
  } catch {
    await removeQuietly(path); // of an earlier attempt
    await symlink(dir, path);
  }
}

/** The path of the socket at which the daemon reaches the shim, undefined when its record is not there or not readable. */
export async function readShimSocket(bundle: string): Promise<string | undefined> {
  try {
    const { address } = parseObject((await readIfThere(join(bundle, BUNDLE.bootstrap))) ?? "{}", bundle);
    if (typeof address !== "string" || !address.startsWith("unix://")) return undefined;
    return address.slice("unix://".length);
  } catch {
    return undefined;
  }
}

/** Removes a file that may not be there. */
export async function removeQuietly(path: string): Promise<void> {
  await rm(path, { force: true }).catch(() => undefined);
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
}

function parseObject(text: string, path: string): JsonObject {
  try {
    return asObject(parseJson(text));
  } catch (error) {
    throw classified("data-loss", `read ${path}: ${messageOf(error)}`, { cause: error });
  }
}

function asObject(value: JsonValue | undefined): JsonObject {
  return isJsonObject(value) ? value : {};
}
