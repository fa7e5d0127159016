import { randomUUID } from "node:crypto";
import { chmod, chown, mkdir, readFile, readlink, rename, rm, rmdir, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { classified, messageOf, withContext } from "@stevedore/base";
import { type AnyValue, validateIdentifier } from "@stevedore/core";
import { isJsonObject, type JsonValue, parseJson } from "@stevedore/oci/json-lossless";
import { removeTree, unmountRecursive } from "@stevedore/os/blocking";

/** Names of the files the daemon keeps in a bundle; those of a shim are the shim's business. */
export const BUNDLE_FILE = {
  config: "config.json",
  rootfs: "rootfs",
  work: "work",
  log: "log",
  address: "address",
  bootstrap: "bootstrap.json",
  shimBinary: "shim-binary-path",
  sandbox: "sandbox",
  /** Kept by shims of ours: what one that takes over goes by. */
  journal: "journal",
  /** There when the task's shim has others, or may have: what it must have in common with them. */
  shared: "shared",
} as const;

/** The type of an OCI spec in an Any. */
const SPEC_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/** A container's folder in the state, where its shim runs, and its working folder in the root. */
export interface Bundle {
  readonly namespace: string;
  readonly id: string;
  readonly path: string;
}

export interface BundleFolders {
  /** `<state>/io.containerd.runtime.v2.task` */
  readonly state: string;
  /** `<root>/io.containerd.runtime.v2.task` */
  readonly root: string;
}

/** Where a container's bundle is, whether or not it exists. */
export function bundleOf(folders: BundleFolders, namespace: string, id: string): Bundle {
  return { namespace, id, path: join(folders.state, namespace, id) };
}

/**
 * Makes a bundle with its working folder and writes the spec into it byte for byte. What a crash left of an earlier one
 * is removed. Nothing stays when it fails.
 *
 * @throws invalid-argument `invalid task id x: ...`
 */
export async function createBundle(
  folders: BundleFolders,
  target: { readonly namespace: string; readonly id: string },
  spec: AnyValue | undefined,
): Promise<Bundle> {
  const { namespace, id } = target;
  try {
    validateIdentifier(id);
  } catch (error) {
    throw withContext(`invalid task id ${id}`, error);
  }
  const bundle = bundleOf(folders, namespace, id);
  const work = join(folders.root, namespace, id);
  await using undo = new AsyncDisposableStack();
  // Each step is a trip to another thread and back: what does not depend on another goes beside it.
  const makeBundle = async (): Promise<void> => {
    await makeFresh(bundle.path, { mode: 0o700, mountPoints: [BUNDLE_FILE.rootfs] });
    undo.defer(() => removeTree(bundle.path, { mountPoints: [BUNDLE_FILE.rootfs] }));
    await allOf([
      spec?.typeUrl === SPEC_TYPE ? openToMappedRoot(bundle.path, spec.value) : Promise.resolve(),
      mkdir(join(bundle.path, BUNDLE_FILE.rootfs), { mode: 0o711 }),
      symlink(work, join(bundle.path, BUNDLE_FILE.work)),
      spec !== undefined && spec.value.byteLength > 0
        ? writeFile(join(bundle.path, BUNDLE_FILE.config), spec.value, { mode: 0o666 })
        : Promise.resolve(),
    ]);
  };
  const makeWork = async (): Promise<void> => {
    await makeFresh(work, { mode: 0o711, mountPoints: [] });
    undo.defer(() => removeTree(work));
  };
  await allOf([makeBundle(), makeWork()]);
  undo.move();
  return bundle;
}

async function makeFresh(
  path: string,
  how: { readonly mode: number; readonly mountPoints: readonly string[] },
): Promise<void> {
  try {
    await mkdir(path, { mode: how.mode });
  } catch (error) {
    if (isCode(error, "ENOENT")) {
      await mkdir(dirname(path), { recursive: true, mode: 0o711 });
      await makeFresh(path, how);
      return;
    }
    if (!isCode(error, "EEXIST")) throw error;
    for (const point of how.mountPoints) await unmountRecursive(join(path, point));
    await removeTree(path, { mountPoints: how.mountPoints });
    await mkdir(path, { mode: how.mode });
  }
}

/** With a user namespace, root inside must reach the bundle: its mapped group gets in. */
async function openToMappedRoot(path: string, spec: Uint8Array): Promise<void> {
  const gid = mappedRoot(spec);
  if (gid === undefined || gid === 0) return;
  await chown(path, -1, gid);
  await chmod(path, 0o710);
}

function mappedRoot(spec: Uint8Array): number | undefined {
  const linux = member(parseJson(spec), "linux");
  const namespaces = member(linux, "namespaces");
  if (!Array.isArray(namespaces) || !namespaces.some((one) => member(one, "type") === "user")) return undefined;
  const mappings = member(linux, "gidMappings");
  if (!Array.isArray(mappings)) return undefined;
  for (const mapping of mappings) {
    const host = member(mapping, "hostID");
    if (member(mapping, "containerID") === 0 && typeof host === "number") return host;
  }
  return undefined;
}

function member(value: JsonValue | undefined, key: string): JsonValue | undefined {
  return isJsonObject(value) ? value[key] : undefined;
}

/** As {@link hideBundle}, with all of it gone. */
export async function deleteBundle(bundle: Bundle): Promise<void> {
  const hidden = await hideBundle(bundle);
  await hidden.removed();
}

/** A bundle that nobody sees any more. */
export interface HiddenBundle {
  /** Removes its files. What is left when the daemon ends is removed by the next one. */
  readonly removed: () => Promise<void>;
}

/**
 * Unmounts what is left at the rootfs and takes bundle and working folder away, each by a rename, so that nobody sees half of
 * one: the id can be used again. What is not there is fine.
 */
export async function hideBundle(bundle: Bundle): Promise<HiddenBundle> {
  const work = await readlink(join(bundle.path, BUNDLE_FILE.work)).catch(() => undefined);
  const rootfs = join(bundle.path, BUNDLE_FILE.rootfs);
  try {
    await unmountRecursive(rootfs);
  } catch (error) {
    throw withContext(`unmount rootfs ${rootfs}`, error);
  }
  try {
    await rmdir(rootfs);
  } catch (error) {
    if (!isCode(error, "ENOENT")) {
      throw classified("unknown", `failed to remove bundle rootfs: ${messageOf(error)}`, { cause: error });
    }
  }
  const hidden = await allOf([hide(bundle.path), ...(work === undefined ? [] : [hide(work)])]);
  return {
    removed: async () => {
      await allOf(hidden.map((path) => (path === undefined ? Promise.resolve() : removeTree(path))));
    },
  };
}

/** All results, or the first failure once all have ended. */
async function allOf<T>(work: readonly Promise<T>[]): Promise<T[]> {
  const results = await Promise.allSettled(work);
  return results.map((result) => {
    if (result.status === "rejected") throw result.reason;
    return result.value;
  });
}

/** @returns the hidden path; undefined when there was nothing. */
async function hide(path: string): Promise<string | undefined> {
  const hidden = join(dirname(path), `.${path.slice(path.lastIndexOf("/") + 1)}`);
  try {
    await rename(path, hidden);
    return hidden;
  } catch (error) {
    if (isCode(error, "ENOENT")) return undefined;
    if (!isCode(error, "ENOTEMPTY") && !isCode(error, "EEXIST")) throw error;
  }
  // One of the same name is on its way out.
  const another = `${hidden}.${randomUUID()}`;
  await rename(path, another);
  return another;
}

/** How a shim is reached, as kept in the bundle. */
export interface BootstrapRecord {
  /** The task API's: 2 or 3. */
  readonly version: number;
  readonly address: string;
  readonly protocol: string;
}

/** Writes bootstrap.json by rename, as the peer spells it. */
export async function writeBootstrap(bundle: Bundle, record: BootstrapRecord): Promise<void> {
  const { version, address, protocol } = record;
  const path = join(bundle.path, BUNDLE_FILE.bootstrap);
  await writeFile(`${path}.tmp`, JSON.stringify({ version, address, protocol }), { mode: 0o644 });
  await rename(`${path}.tmp`, path);
}

/** Reads bootstrap.json, or the `address` file of earlier daemons. @throws not-found when there is neither */
export async function readBootstrap(bundle: Bundle): Promise<BootstrapRecord> {
  const text = await readText(join(bundle.path, BUNDLE_FILE.bootstrap));
  if (text !== undefined) return parseStartAnswer(text);
  const address = await readText(join(bundle.path, BUNDLE_FILE.address));
  if (address === undefined) {
    throw classified("not-found", `read bootstrap of bundle ${bundle.path}: found neither bootstrap.json nor address`);
  }
  return { version: LEGACY_VERSION, address: address.trim(), protocol: "ttrpc" };
}

/** The task API of shims that answer with a plain address. */
export const LEGACY_VERSION = 2;

/** The newest task API known. */
export const CURRENT_VERSION = 3;

/**
 * What a shim's `start` printed, or what bootstrap.json holds: JSON, else a plain address.
 *
 * @throws not-implemented for a newer version.
 */
export function parseStartAnswer(text: string): BootstrapRecord {
  const trimmed = text.trim();
  const plain = { version: LEGACY_VERSION, address: trimmed, protocol: "ttrpc" };
  if (!trimmed.startsWith("{")) return plain;
  const object = parseJson(trimmed);
  const version = member(object, "version");
  const address = member(object, "address");
  const protocol = member(object, "protocol");
  if (typeof version !== "number" || version < LEGACY_VERSION || typeof address !== "string") return plain;
  return checkVersion({ version, address, protocol: typeof protocol === "string" ? protocol : "ttrpc" });
}

/** @throws not-implemented for a version newer than ours */
export function checkVersion(record: BootstrapRecord): BootstrapRecord {
  if (record.version <= CURRENT_VERSION) return record;
  throw classified("not-implemented", `unsupported shim version (${record.version}): not implemented`);
}

/** The text of a small file, undefined when there is none. */
export async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if (isCode(error, "ENOENT")) return undefined;
    throw error;
  }
}

/** Whether an error of Node's file functions is that errno. */
export function isCode(error: unknown, code: string): boolean {
  return error instanceof Error && "code" in error && error.code === code;
}

/** Removes a file that may not be there. */
export async function removeFile(path: string): Promise<void> {
  await rm(path, { force: true });
}
