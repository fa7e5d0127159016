import { mkdirSync, mkdtempSync, realpathSync, rmdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { classified } from "@stevedore/base/errors";
import { check, ERRNO, failed, isErrno, resultOrErrno, SyscallError } from "./errno.ts";
import { AT, closeQuietly, O, OwnedFd, readInto } from "./fd.ts";
import { cString, i32, i64, libc, type OsPath, pointer, rawSyscall, SYS } from "./ffi.ts";
import { attachLoop } from "./loop.ts";
import { mountsAtOrBelow } from "./mountinfo.ts";
import { openInRoot } from "./path.ts";

/**
 * Mounting. Every function here runs on the calling thread. A mount takes some 50 µs, but an unmount waits for an RCU
 * grace period and for the file system's own sync, so a process with a loop to keep calls these through
 * `@stevedore/os/blocking`, which has them under the same names, off the loop.
 */

const lib = libc({
  mount: { args: [pointer, pointer, pointer, i64, pointer], returns: i32 },
  umount2: { args: [pointer, i32], returns: i32 },
});

/** Flags of mount(2); from include/uapi/linux/mount.h. */
export const MS = {
  RDONLY: 1,
  NOSUID: 2,
  NODEV: 4,
  NOEXEC: 8,
  SYNCHRONOUS: 16,
  REMOUNT: 32,
  MANDLOCK: 64,
  DIRSYNC: 128,
  NOSYMFOLLOW: 256,
  NOATIME: 1024,
  NODIRATIME: 2048,
  BIND: 4096,
  MOVE: 8192,
  REC: 16_384,
  SILENT: 32_768,
  UNBINDABLE: 1 << 17,
  PRIVATE: 1 << 18,
  SLAVE: 1 << 19,
  SHARED: 1 << 20,
  RELATIME: 1 << 21,
  STRICTATIME: 1 << 24,
  LAZYTIME: 1 << 25,
} as const;

/** Flags of umount2(2). */
export const MNT = { FORCE: 1, DETACH: 2, EXPIRE: 4, NOFOLLOW: 8 } as const;

/** One mount step, the shape of containerd's `types.Mount`. */
export interface MountStep {
  readonly type: string;
  readonly source: string;
  /** Path below the target of the whole list; "" or absent for the target itself. Resolved inside it. */
  readonly target?: string;
  readonly options: readonly string[];
}

/** mount(2) as it is. @throws the {@link SyscallError} */
export function mountRaw(source: OsPath, target: OsPath, call: { type?: string; flags?: number; data?: OsPath }): void {
  const { type = "", flags = 0, data = "" } = call;
  const result = lib().mount(
    cString(source),
    cString(target),
    type === "" ? null : cString(type),
    flags,
    data.length === 0 ? null : cString(data),
  );
  if (result < 0) throw failed("mount", target, type === "" ? undefined : `(${type})`);
}

/** umount2(2) as it is. @throws invalid-argument (EINVAL) when `target` is no mount point; failed-precondition (EBUSY) */
export function unmount(target: OsPath, flags = 0): void {
  if (lib().umount2(cString(target), flags) < 0) throw failed("unmount", target);
}

/** fstab words that set or clear a flag of mount(2). */
const FLAG_WORDS: Readonly<Record<string, readonly [set: number, clear: number]>> = {
  async: [0, MS.SYNCHRONOUS],
  atime: [0, MS.NOATIME],
  bind: [MS.BIND, 0],
  defaults: [0, 0],
  dev: [0, MS.NODEV],
  diratime: [0, MS.NODIRATIME],
  dirsync: [MS.DIRSYNC, 0],
  exec: [0, MS.NOEXEC],
  lazytime: [MS.LAZYTIME, 0],
  mand: [MS.MANDLOCK, 0],
  noatime: [MS.NOATIME, 0],
  nodev: [MS.NODEV, 0],
  nodiratime: [MS.NODIRATIME, 0],
  noexec: [MS.NOEXEC, 0],
  nolazytime: [0, MS.LAZYTIME],
  nomand: [0, MS.MANDLOCK],
  norelatime: [0, MS.RELATIME],
  nostrictatime: [0, MS.STRICTATIME],
  nosuid: [MS.NOSUID, 0],
  nosymfollow: [MS.NOSYMFOLLOW, 0],
  private: [MS.PRIVATE, 0],
  rbind: [MS.BIND | MS.REC, 0],
  relatime: [MS.RELATIME, 0],
  remount: [MS.REMOUNT, 0],
  ro: [MS.RDONLY, 0],
  rprivate: [MS.PRIVATE | MS.REC, 0],
  rshared: [MS.SHARED | MS.REC, 0],
  rslave: [MS.SLAVE | MS.REC, 0],
  runbindable: [MS.UNBINDABLE | MS.REC, 0],
  rw: [0, MS.RDONLY],
  shared: [MS.SHARED, 0],
  slave: [MS.SLAVE, 0],
  strictatime: [MS.STRICTATIME, 0],
  suid: [0, MS.NOSUID],
  symfollow: [0, MS.NOSYMFOLLOW],
  sync: [MS.SYNCHRONOUS, 0],
  unbindable: [MS.UNBINDABLE, 0],
};

/** The mount options of a step, sorted by who reads them. */
export interface ParsedOptions {
  /** {@link MS} flags of the mount itself. */
  readonly flags: number;
  /** Propagation flags, applied in a call of their own as the kernel wants it. */
  readonly propagation: number;
  /** What the file system itself reads, in order. */
  readonly data: readonly string[];
  /** An attached loop device is asked for. */
  readonly loop: boolean;
  /** `uidmap=` and `gidmap=` ranges for an idmapped mount. */
  readonly idmap: { readonly uid: string; readonly gid: string } | undefined;
}

const PROPAGATION = MS.SHARED | MS.PRIVATE | MS.SLAVE | MS.UNBINDABLE;

/** Sorts fstab words. `X-containerd.*` options speak to containerd's own mount manager and mean nothing to a mount. */
export function parseMountOptions(options: readonly string[]): ParsedOptions {
  let flags = 0;
  let propagation = 0;
  let loop = false;
  let uid = "";
  let gid = "";
  const data: string[] = [];
  for (const option of options) {
    if (option === "" || option.startsWith("X-containerd.")) continue;
    const word = Object.hasOwn(FLAG_WORDS, option) ? FLAG_WORDS[option] : undefined;
    if (word !== undefined) {
      const [set, clear] = word;
      if ((set & PROPAGATION) !== 0) propagation |= set;
      else flags = (flags | set) & ~clear;
    } else if (option === "loop") loop = true;
    else if (option.startsWith("uidmap=")) uid = option.slice("uidmap=".length);
    else if (option.startsWith("gidmap=")) gid = option.slice("gidmap=".length);
    else data.push(option);
  }
  if ((uid === "") !== (gid === "")) {
    throw classified("invalid-argument", "parse mount options: uidmap and gidmap must be given together");
  }
  return { flags, propagation, data, loop, idmap: uid === "" ? undefined : { uid, gid } };
}

/** What mount(2) takes as data: one page, its NUL included. */
const MAX_DATA = 4095;

/**
 * Performs one step at `target`, which exists. Overlays whose options outgrow a page go through fsconfig
 * (`lowerdir+`, Linux 6.8), or on older kernels name their layers by descriptor.
 *
 * @throws the {@link SyscallError}, its message naming target and type; not-implemented for options we cannot perform.
 */
export function mountOne(step: MountStep, target: OsPath, options: MountOptions = {}): void {
  const { flags, propagation, data, loop, idmap } = parseMountOptions(step.options);
  if (idmap !== undefined) {
    const namespace = options.userNamespaces?.[`${idmap.uid}/${idmap.gid}`];
    if (namespace === undefined) {
      throw classified("failed-precondition", `mount ${step.source}: no user namespace was made for its id mapping`);
    }
    mountMapped(step, target, { flags, data, namespace });
  } else if (loop) {
    const device = attachLoop(step.source, { readOnly: (flags & MS.RDONLY) !== 0 });
    try {
      mountRaw(device.path, target, { type: step.type, flags, data: data.join(",") });
    } finally {
      device.fd.close(); // the mount keeps the device; it goes with it
    }
  } else if ((flags & MS.REMOUNT) === 0 || data.length > 0 || propagation === 0) {
    if (step.type === "overlay" && data.join(",").length > MAX_DATA) mountWideOverlay(step, target, flags, data);
    else mountRaw(step.source, target, { type: step.type, flags, data: data.join(",") });
  }
  try {
    if (propagation !== 0) mountRaw("", target, { flags: propagation });
    // The kernel ignores every flag but MS_REC on a bind; the others take a remount.
    if ((flags & MS.BIND) !== 0 && (flags & MS.REMOUNT) === 0 && (flags & BIND_EXTRAS) !== 0) {
      mountRaw("", target, { flags: flags | MS.REMOUNT });
    }
  } catch (error) {
    if ((flags & MS.REMOUNT) === 0) unmountQuietly(target);
    throw error;
  }
}

const BIND_EXTRAS = MS.RDONLY | MS.NOSUID | MS.NODEV | MS.NOEXEC | MS.NOATIME | MS.NODIRATIME | MS.NOSYMFOLLOW;

/** What mounts may need beside their steps. */
export interface MountOptions {
  /** Descriptors of user namespaces by `uid/gid` mapping, for steps with `uidmap=` and `gidmap=`; see userns.ts. Borrowed. */
  readonly userNamespaces?: Readonly<Record<string, number>>;
}

interface MappedMount {
  readonly flags: number;
  readonly data: readonly string[];
  readonly namespace: number;
}

/**
 * A bind, or an overlay whose lower layers are seen through an id mapping. The mapping is an attribute of a mount, so each
 * layer is cloned, mapped and hung in a folder of ours until the overlay has taken its own copy.
 */
function mountMapped(step: MountStep, target: OsPath, { flags, data, namespace }: MappedMount): void {
  const mapped = (path: string): DetachedMount => {
    const tree = cloneMount(path, { recursive: (flags & MS.REC) !== 0 });
    try {
      const change = { set: MOUNT_ATTR.IDMAP, userNamespaceFd: namespace, recursive: (flags & MS.REC) !== 0 };
      tree.setAttributes(change);
      return tree;
    } catch (error) {
      tree[Symbol.dispose]();
      throw error;
    }
  };
  if ((flags & MS.BIND) !== 0) {
    using tree = mapped(step.source);
    tree.attach(target);
    return;
  }
  if (step.type !== "overlay") {
    throw classified(
      "not-implemented",
      `mount ${step.source}: id mappings are for binds and overlays, not for ${step.type}`,
    );
  }
  using stack = new DisposableStack();
  const dir = mkdtempSync(`${tmpdir()}/ovl-idmapped`);
  stack.defer(() => rmdirSync(dir));
  let count = 0;
  const options = data.map((option) => {
    if (!option.startsWith("lowerdir=")) return option;
    const layers = splitLayers(option.slice("lowerdir=".length)).map((layer) => {
      using tree = mapped(layer);
      const place = `${dir}/${count++}`;
      mkdirSync(place, { mode: 0o700 });
      stack.defer(() => rmdirSync(place));
      tree.attach(place);
      stack.defer(() => unmountQuietly(place));
      return place;
    });
    return `lowerdir=${layers.join(":")}`;
  });
  mountOne({ ...step, options: [...step.options.filter(isFlagWord), ...options] }, target);
}

function isFlagWord(option: string): boolean {
  return Object.hasOwn(FLAG_WORDS, option);
}

function unmountQuietly(target: OsPath): void {
  lib().umount2(cString(target), MNT.DETACH);
}

/**
 * Performs the steps in order at `target`, an existing folder. When one fails, those before it are undone.
 *
 * @returns where each step landed, in order: a step's `target` is resolved inside `target`, symlinks included.
 */
export function mountAll(steps: readonly MountStep[], target: string, options: MountOptions = {}): string[] {
  const done: string[] = [];
  try {
    for (const step of steps) {
      const at = stepTarget(step, target);
      mountOne(step, at, options);
      done.push(at);
    }
    return done;
  } catch (error) {
    for (const at of done.toReversed()) unmountQuietly(at);
    throw error;
  }
}

function stepTarget(step: MountStep, target: string): string {
  if (step.target === undefined || step.target === "" || step.target === "/") return target;
  const fd = openInRoot(target, step.target, O.PATH);
  try {
    return realpathSync(`/proc/self/fd/${fd}`);
  } finally {
    closeQuietly(fd);
  }
}

/** Splits a `lowerdir=` value at its colons; a backslash takes the next character's meaning away. */
export function splitLayers(value: string): string[] {
  const layers: string[] = [];
  let current = "";
  for (let i = 0; i < value.length; i++) {
    const char = value[i] ?? "";
    if (char === "\\" && i + 1 < value.length) current += value[++i] ?? "";
    else if (char === ":") {
      layers.push(current);
      current = "";
    } else current += char;
  }
  layers.push(current);
  return layers;
}

function mountWideOverlay(step: MountStep, target: OsPath, flags: number, data: readonly string[]): void {
  const layers: string[] = [];
  const others: [key: string, value: string | undefined][] = [];
  for (const option of data) {
    if (option.startsWith("lowerdir=")) layers.push(...splitLayers(option.slice("lowerdir=".length)));
    else {
      const equals = option.indexOf("=");
      others.push(equals < 0 ? [option, undefined] : [option.slice(0, equals), option.slice(equals + 1)]);
    }
  }
  if (overlayTakesLayersOneByOne()) {
    using context = new FsContext("overlay");
    context.set("source", step.source);
    for (const layer of layers) context.set("lowerdir+", layer);
    for (const [key, value] of others) context.set(key, value);
    using tree = context.create(flags);
    tree.attach(target);
    return;
  }
  using stack = new DisposableStack();
  const named = layers.map((layer) => {
    const fd = stack.use(openTreePlain(layer)).fd;
    return `/proc/self/fd/${fd}`;
  });
  const rest = others.map(([key, value]) => (value === undefined ? key : `${key}=${value}`));
  const text = [`lowerdir=${named.join(":")}`, ...rest].join(",");
  if (text.length > MAX_DATA) {
    throw classified(
      "resource-exhausted",
      `mount ${step.source}: ${layers.length} layers do not fit this kernel's mount call`,
    );
  }
  mountRaw(step.source, target, { type: step.type, flags, data: text });
}

function openTreePlain(path: string): OwnedFd {
  return new OwnedFd(check(rawSyscall(SYS.openTree, AT.FDCWD, cString(path), O.CLOEXEC), "open", path));
}

let oneByOne: boolean | undefined;

/** Whether overlayfs knows `lowerdir+` (Linux 6.8): asked once, by an fs context that is never mounted. */
export function overlayTakesLayersOneByOne(): boolean {
  if (oneByOne !== undefined) return oneByOne;
  try {
    using context = new FsContext("overlay");
    context.set("lowerdir+", "/");
    oneByOne = true;
  } catch {
    oneByOne = false;
  }
  return oneByOne;
}

/** For tests of the older way. */
export function assumeLayersOneByOne(answer: boolean | undefined): void {
  oneByOne = answer;
}

const FSCONFIG = { SET_FLAG: 0, SET_STRING: 1, SET_FD: 5, CMD_CREATE: 6 } as const;

/** A file system being configured (fsopen). Owns its descriptor. */
export class FsContext implements Disposable {
  readonly #fd: OwnedFd;
  readonly #type: string;

  /** @throws failed-precondition (ENODEV) when the kernel lacks the type; not-implemented (ENOSYS) before Linux 5.2. */
  constructor(type: string) {
    const FSOPEN_CLOEXEC = 1;
    this.#type = type;
    this.#fd = new OwnedFd(check(rawSyscall(SYS.fsopen, cString(type), FSOPEN_CLOEXEC), "fsopen", type));
  }

  /** Sets an option; without a value, a flag. Values over 255 bytes are refused by the kernel. */
  set(key: string, value?: string): void {
    const result =
      value === undefined
        ? rawSyscall(SYS.fsconfig, this.#fd.fd, FSCONFIG.SET_FLAG, cString(key), null, 0)
        : rawSyscall(SYS.fsconfig, this.#fd.fd, FSCONFIG.SET_STRING, cString(key), cString(value), 0);
    if (result < 0) throw this.#error(resultOrErrno(result), `${key}=${value ?? ""}`);
  }

  /** Makes the superblock and a detached mount of it with the per-mount part of `flags` ({@link MS}). */
  create(flags = 0): DetachedMount {
    if ((flags & MS.RDONLY) !== 0) this.set("ro");
    const created = rawSyscall(SYS.fsconfig, this.#fd.fd, FSCONFIG.CMD_CREATE, null, null, 0);
    if (created < 0) throw this.#error(resultOrErrno(created), "create");
    const FSMOUNT_CLOEXEC = 1;
    const fd = rawSyscall(SYS.fsmount, this.#fd.fd, FSMOUNT_CLOEXEC, attributesOf(flags));
    if (fd < 0) throw this.#error(resultOrErrno(fd), "mount");
    return new DetachedMount(fd);
  }

  /** The kernel writes what it minded into the context: it says more than the errno. */
  #error(negative: number, doing: string): SyscallError {
    const lines: string[] = [];
    const buffer = new Uint8Array(1024);
    for (let n = readInto(this.#fd.fd, buffer); n > 0 && lines.length < 16; n = readInto(this.#fd.fd, buffer)) {
      lines.push(new TextDecoder().decode(buffer.subarray(0, n)).trim());
    }
    const detail = lines.length === 0 ? `(${doing})` : `(${doing}: ${lines.join("; ")})`;
    return new SyscallError({ syscall: "fsconfig", errno: -negative, target: this.#type, detail });
  }

  [Symbol.dispose](): void {
    this.#fd[Symbol.dispose]();
  }
}

/** Attributes of mount_setattr(2) and fsmount(2); from include/uapi/linux/mount.h. */
export const MOUNT_ATTR = {
  RDONLY: 1,
  NOSUID: 2,
  NODEV: 4,
  NOEXEC: 8,
  ATIME: 0x70,
  NOATIME: 0x10,
  STRICTATIME: 0x20,
  NODIRATIME: 0x80,
  IDMAP: 0x10_0000,
  NOSYMFOLLOW: 0x20_0000,
} as const;

function attributesOf(flags: number): number {
  let attributes = 0;
  if ((flags & MS.RDONLY) !== 0) attributes |= MOUNT_ATTR.RDONLY;
  if ((flags & MS.NOSUID) !== 0) attributes |= MOUNT_ATTR.NOSUID;
  if ((flags & MS.NODEV) !== 0) attributes |= MOUNT_ATTR.NODEV;
  if ((flags & MS.NOEXEC) !== 0) attributes |= MOUNT_ATTR.NOEXEC;
  if ((flags & MS.NOATIME) !== 0) attributes |= MOUNT_ATTR.NOATIME;
  if ((flags & MS.STRICTATIME) !== 0) attributes |= MOUNT_ATTR.STRICTATIME;
  if ((flags & MS.NODIRATIME) !== 0) attributes |= MOUNT_ATTR.NODIRATIME;
  if ((flags & MS.NOSYMFOLLOW) !== 0) attributes |= MOUNT_ATTR.NOSYMFOLLOW;
  return attributes;
}

/** A mount that hangs nowhere yet; it goes away with its descriptor unless it was attached. */
export class DetachedMount implements Disposable {
  readonly #fd: OwnedFd;

  /** Takes `fd` over: from fsmount or open_tree with clone. */
  constructor(fd: number) {
    this.#fd = new OwnedFd(fd);
  }

  /** Its root, usable as a folder descriptor. */
  get fd(): number {
    return this.#fd.fd;
  }

  /** Sets and clears attributes ({@link MOUNT_ATTR}), of the whole tree with `recursive`. */
  setAttributes(change: AttributeChange): void {
    setMountAttributes(this.fd, "", change);
  }

  /** Hangs it at `target`. */
  attach(target: OsPath): void {
    const MOVE_MOUNT_F_EMPTY_PATH = 4;
    const result = rawSyscall(SYS.moveMount, this.fd, EMPTY, AT.FDCWD, cString(target), MOVE_MOUNT_F_EMPTY_PATH);
    if (result < 0) throw failed("move_mount", target);
  }

  [Symbol.dispose](): void {
    this.#fd[Symbol.dispose]();
  }
}

const EMPTY = new Uint8Array(1);

/** A detached copy of the mount at `path` (open_tree), with everything mounted below it when `recursive`. */
export function cloneMount(path: OsPath, options: { recursive?: boolean } = {}): DetachedMount {
  const OPEN_TREE_CLONE = 1;
  const flags = OPEN_TREE_CLONE | O.CLOEXEC | (options.recursive === true ? AT.RECURSIVE : 0);
  return new DetachedMount(check(rawSyscall(SYS.openTree, AT.FDCWD, cString(path), flags), "open_tree", path));
}

export interface AttributeChange {
  /** {@link MOUNT_ATTR} to set; clearing the access-time kind is implied when one is set. */
  readonly set?: number;
  readonly clear?: number;
  /** One of MS.SHARED, MS.PRIVATE, MS.SLAVE, MS.UNBINDABLE. */
  readonly propagation?: number;
  /** With MOUNT_ATTR.IDMAP: a descriptor of the user namespace whose mapping applies. Borrowed. */
  readonly userNamespaceFd?: number;
  readonly recursive?: boolean;
}

/** mount_setattr(2) on the mount at `path` ("" for the descriptor itself). @throws not-implemented before Linux 5.12 */
export function setMountAttributes(fd: number, path: OsPath, change: AttributeChange): void {
  const set = change.set ?? 0;
  const kinds = MOUNT_ATTR.NOATIME | MOUNT_ATTR.STRICTATIME;
  const clear = (change.clear ?? 0) | ((set & kinds) === 0 ? 0 : MOUNT_ATTR.ATIME);
  const attributes = new BigUint64Array([
    BigInt(set),
    BigInt(clear),
    BigInt(change.propagation ?? 0),
    BigInt(change.userNamespaceFd ?? 0),
  ]);
  const flags = (path.length === 0 ? AT.EMPTY_PATH : 0) | (change.recursive === true ? AT.RECURSIVE : 0);
  const result = rawSyscall(SYS.mountSetattr, fd, cString(path), flags, attributes, attributes.byteLength);
  if (result < 0) throw failed("mount_setattr", path);
}

export interface UnmountOptions {
  /** {@link MNT} flags. */
  readonly flags?: number;
}

/**
 * Unmounts everything stacked at `target`; a target that is not there or carries nothing is fine.
 *
 * @throws failed-precondition (EBUSY) when a mount is in use and MNT.DETACH was not given.
 */
export function unmountAll(target: string, options: UnmountOptions = {}): void {
  const { flags = 0 } = options;
  const name = cString(target);
  for (let depth = 0; depth < MAX_STACKED; depth++) {
    const result = resultOrErrno(lib().umount2(name, flags));
    if (result === -ERRNO.EINVAL || result === -ERRNO.ENOENT) return;
    if (result < 0) throw new SyscallError({ syscall: "unmount", errno: -result, target });
  }
}

/** More mounts than anybody stacks on one folder. */
const MAX_STACKED = 1_000;

/** Unmounts what is mounted at `target` and anywhere below it, deepest first. A path that is missing is fine. */
export function unmountRecursive(target: string, options: UnmountOptions = {}): void {
  let resolved: string;
  try {
    resolved = realpathSync(target);
  } catch (error) {
    if (isErrno(error, "ENOENT")) return;
    throw error;
  }
  const points = mountsAtOrBelow(resolved).map((mount) => mount.mountPoint);
  // Later mounts may hide earlier ones, so undo goes backwards in mount order.
  for (const point of points.toReversed()) {
    const result = resultOrErrno(lib().umount2(cString(point), (options.flags ?? 0) | MNT.NOFOLLOW));
    if (result < 0 && result !== -ERRNO.EINVAL && result !== -ERRNO.ENOENT) {
      throw new SyscallError({ syscall: "unmount", errno: -result, target: point });
    }
  }
}

export interface TempMountOptions {
  /** Folder the temporary mount point is made in. Default $TMPDIR, else /tmp. */
  readonly root?: string;
}

/**
 * Mounts the steps at a fresh private folder, calls `use` with it, unmounts and removes the folder, whatever happened.
 * The folder is removed with rmdir only, never with what is in it.
 */
export async function withTempMount<T>(
  steps: readonly MountStep[],
  use: (dir: string) => Promise<T> | T,
  options: TempMountOptions = {},
): Promise<T> {
  const dir = mkdtempSync(`${options.root ?? tmpdir()}/containerd-mount`);
  using stack = new DisposableStack();
  stack.defer(() => rmdirSync(dir));
  using namespaces = await userNamespacesFor(steps);
  const places = mountAll(steps, dir, { userNamespaces: namespaces.descriptors });
  for (const place of places) stack.defer(() => unmountOrDetach(place));
  for (const place of places) mountRaw("", place, { flags: MS.PRIVATE });
  return await use(dir);
}

/**
 * {@link mountAll} with the user namespaces that its steps need. It blocks as that does, but for making namespaces, some 3 ms each off the loop.
 * @throws as {@link mountAll}; invalid-argument for a malformed mapping
 */
export async function mountAllMapped(steps: readonly MountStep[], target: string): Promise<string[]> {
  using namespaces = await userNamespacesFor(steps);
  return mountAll(steps, target, { userNamespaces: namespaces.descriptors });
}

/** userns.ts is loaded only when a step has an id mapping. */
async function userNamespacesFor(
  steps: readonly MountStep[],
): Promise<Disposable & { readonly descriptors: Readonly<Record<string, number>> }> {
  if (!needsUserNamespaces(steps)) return { descriptors: {}, [Symbol.dispose]: () => undefined };
  const { UserNamespaces } = await import("./userns.ts");
  return UserNamespaces.for(steps);
}

/** Whether a step has an id mapping: then `mountAll` needs {@link MountOptions.userNamespaces}. */
export function needsUserNamespaces(steps: readonly MountStep[]): boolean {
  return steps.some((step) =>
    step.options.some((option) => option.startsWith("uidmap=") || option.startsWith("gidmap=")),
  );
}

function unmountOrDetach(place: string): void {
  try {
    unmount(place);
  } catch (error) {
    if (!isErrno(error, "EBUSY")) throw error;
    unmount(place, MNT.DETACH);
  }
}
