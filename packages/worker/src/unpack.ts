import { classified } from "@stevedore/base/errors";
import { IMPLIED_MARK, MAX_REPORTED } from "@stevedore/oci/layer-job";
import type { TarHeader } from "@stevedore/oci/tar/header";
import { decodeName, encodeName } from "@stevedore/oci/tar/names";
import type { TarSink } from "@stevedore/oci/tar/parser";
import { parseWhiteout } from "@stevedore/oci/tar/whiteout";
import {
  chmodEntry,
  chmodOpen,
  chownEntry,
  chownOpen,
  getXattrOpen,
  listXattrsOpen,
  makeFolder,
  makeLink,
  makeNode,
  makeSymlink,
  openEntry,
  openFolder,
  readAt,
  readLinkEntry,
  removeXattrOpen,
  setXattrEntry,
  setXattrOpen,
  truncateOpen,
  unlinkEntry,
  utimesEntry,
  utimesOpen,
  writeAt,
} from "@stevedore/os/at-calls";
import { ERRNO, SyscallError } from "@stevedore/os/errno";
import { closeFd, closeQuietly, O, writeFrom } from "@stevedore/os/fd";
import { DT, listDirectory, openAt2, RESOLVE, removeTreeAt } from "@stevedore/os/path";
import { type FileStat, isDirectory, isRegular, isSymlink, S, statAt, statFd } from "@stevedore/os/stat";

/**
 * Puts a layer's entries into a folder, as containerd's pkg/archive does, with the semantics of the OCI image spec's
 * layer.md. No string path is ever given to the kernel: a parent is reached component by component, each opened without
 * following links from the descriptor of the one before, links and `..` being resolved here inside the root. Somebody
 * who swaps names while this runs can make it write to another folder of the same root, and nowhere else.
 *
 * Everything is synchronous: this runs in a worker process that does nothing else.
 */

export interface UnpackOptions {
  /** The target folder; borrowed. */
  readonly root: number;
  /**
   * Whiteouts become what overlayfs reads (0:0 devices, the opaque attribute): the target is an upper folder. Otherwise
   * they delete what is there.
   */
  readonly overlay: boolean;
  /** The overlay is mounted with `userxattr`: attributes that steer it live in `user.overlay.` and are not taken from a layer. */
  readonly userXattr: boolean;
  /** Folders of the layers below, nearest first; borrowed. Only read, for the attributes of folders no entry names. */
  readonly lowers: readonly number[];
  /** Devices are left out, with a warning: a user namespace cannot make them. containerd does the same. */
  readonly skipDevices?: boolean;
  /** Leave {@link IMPLIED_MARK} on folders no entry names. */
  readonly markImplied: boolean;
}

interface Folder {
  readonly fd: number;
  /** Path from the root without links: "" for the root, "usr/share". */
  readonly path: string;
}

/** Parents held open: archives go depth-first, and a folder that falls out is opened again in two microseconds. */
const MAX_FOLDERS = 128;

/** How many symlinks one path may go through: containerd's (and Go's) limit. */
const MAX_LINKS = 255;

/** How often a name somebody else keeps putting there is removed before giving up. */
const MAX_RACES = 64;

/** "y", the value overlayfs looks for. */
const MARK = new Uint8Array([0x79]);

const TRUSTED = "trusted.";
const USER = "user.";

export class Unpacker implements TarSink {
  readonly #options: UnpackOptions;
  readonly #root: Folder;
  /** By the path an archive used, which may go through links. In order of use, oldest first. */
  readonly #folders = new Map<string, Folder>();
  /** Paths (without links) this layer has put in place: a whiteout in the same layer does not touch them. */
  readonly #unpacked = new Set<string>();
  /** Folders that hold something of this layer, at any depth. */
  readonly #holding = new Set<string>();
  /** Whiteouts this layer made in place of a name; a folder that follows under that name hides the lower one. */
  readonly #whiteouts = new Set<string>();
  readonly #opaque = new Set<string>();
  /** Folders no entry named so far, and the times the layers below have for them. */
  readonly #implied = new Map<string, FileStat | undefined>();
  /** Times of folders, set when nothing will be created in them any more. */
  readonly #folderTimes = new Map<string, TarHeader>();
  readonly #warnings: string[] = [];
  #warned = 0;
  /** The file being written, -1 for none. */
  #file = -1;
  #header: TarHeader | undefined;
  #base = "";
  /** The folder of the current hard link's target. */
  #linkFrom: Folder | undefined;

  constructor(options: UnpackOptions) {
    this.#options = options;
    this.#root = { fd: options.root, path: "" };
  }

  get implied(): string[] {
    return [...this.#implied.keys()].slice(0, MAX_REPORTED);
  }

  get opaque(): string[] {
    return [...this.#opaque].slice(0, MAX_REPORTED);
  }

  get warnings(): readonly string[] {
    return this.#warnings;
  }

  entry(header: TarHeader): void {
    if (header.type === "global") return;
    if (header.type === "other") {
      throw classified("invalid-argument", `unhandled tar header type ${header.typeFlag}: invalid archive`);
    }
    if (this.#options.skipDevices === true && (header.type === "char" || header.type === "block")) {
      this.#warn(`ignored device ${JSON.stringify(header.name)}: not possible in a user namespace`);
      return;
    }
    const path = cleanPath(header.name);
    if (path === "") return; // the root's own attributes are the snapshotter's
    const slash = path.lastIndexOf("/");
    const base = path.slice(slash + 1);
    const whiteout = parseWhiteout(base);
    const parent = slash < 0 ? this.#root : this.#folder(path.slice(0, slash), true);
    if (whiteout.kind === "opaque") this.#hideAll(parent);
    else if (whiteout.kind === "delete") this.#hide(parent, whiteout.target, header);
    else this.#create(parent, base, header);
  }

  data(bytes: Uint8Array, offset: number): void {
    if (this.#file < 0) return;
    const sparse = this.#header?.sparse !== undefined;
    for (let at = 0; at < bytes.length; ) {
      const rest = at === 0 ? bytes : bytes.subarray(at);
      const n = sparse ? writeAt(this.#file, rest, offset + at) : writeFrom(this.#file, rest);
      if (n < 0) throw this.#failed("write", n);
      at += n;
    }
  }

  finish(): void {
    const header = this.#header;
    if (this.#file < 0 || header === undefined) return;
    const fd = this.#file;
    if (header.sparse !== undefined) this.#must(truncateOpen(fd, header.size), "truncate");
    this.#attributes(fd, header);
    const { atime, mtime } = timesOf(header);
    this.#must(utimesOpen(fd, atime, mtime), "utimes");
    this.#file = -1;
    closeFd(fd);
  }

  /** Sets the times of folders and the marks. Call once, after the last entry. */
  complete(): void {
    for (const [path, header] of this.#folderTimes) {
      const fd = this.#reopen(path);
      if (fd < 0) continue; // replaced or whited out later in the same layer
      const { atime, mtime } = timesOf(header);
      const result = utimesOpen(fd, atime, mtime);
      closeQuietly(fd);
      this.#must(result, "utimes");
    }
    // The mark on the root says that there are marks below.
    if (this.#options.markImplied && this.#implied.size > 0) setXattrOpen(this.#root.fd, IMPLIED_MARK, MARK);
    for (const [path, lower] of this.#implied) {
      if (lower === undefined && !this.#options.markImplied) continue;
      const fd = this.#reopen(path);
      if (fd < 0) continue;
      if (lower !== undefined) utimesOpen(fd, lower.atime, lower.mtime);
      else setXattrOpen(fd, IMPLIED_MARK, MARK);
      closeQuietly(fd);
    }
  }

  /** Closes everything. Safe to call twice. */
  close(): void {
    if (this.#file >= 0) closeQuietly(this.#file);
    this.#file = -1;
    this.#forgetFolders();
  }

  // Creating

  #create(parent: Folder, base: string, header: TarHeader): void {
    this.#header = header;
    this.#base = base;
    const path = join(parent.path, base);
    const name = encodeName(base);
    switch (header.type) {
      case "file": {
        const open = (): number => openEntry(parent.fd, name, O.WRONLY | O.CREAT | O.EXCL, 0o600);
        this.#file = this.#replacing(parent, base, open, "open");
        break;
      }
      case "directory":
        this.#makeFolder(parent, base, header);
        break;
      case "symlink": {
        const text = encodeName(header.linkName);
        this.#replacing(parent, base, () => makeSymlink(parent.fd, name, text), "symlink");
        this.#entryAttributes(parent, name, header, false);
        break;
      }
      case "link":
        this.#link(parent, base, header);
        break;
      case "char":
      case "block":
      case "fifo": {
        const kind = header.type === "char" ? S.IFCHR : header.type === "block" ? S.IFBLK : S.IFIFO;
        const device = { major: header.devMajor, minor: header.devMinor };
        if (!isUint32(device.major) || !isUint32(device.minor)) {
          throw classified(
            "invalid-argument",
            `device number ${device.major}:${device.minor} for ${JSON.stringify(header.name)} out of range: invalid archive`,
          );
        }
        this.#replacing(parent, base, () => makeNode(parent.fd, name, kind | 0o600, device), "mknod");
        this.#entryAttributes(parent, name, header, true);
        break;
      }
      case "global":
      case "other":
        return;
      default:
        header.type satisfies never;
    }
    this.#unpacked.add(path);
    for (
      let at = parent.path;
      at !== "" && !this.#holding.has(at);
      at = at.slice(0, Math.max(at.lastIndexOf("/"), 0))
    ) {
      this.#holding.add(at);
    }
  }

  /** Whether this layer put `path`, or something below it, in place. */
  #ours(path: string): boolean {
    return this.#unpacked.has(path) || this.#holding.has(path);
  }

  #makeFolder(parent: Folder, base: string, header: TarHeader): void {
    const name = encodeName(base);
    const path = join(parent.path, base);
    let fd = openFolder(parent.fd, name, O.RDONLY);
    if (fd >= 0 && !this.#ours(path)) dropXattrs(fd, header);
    if (fd < 0) {
      this.#replacing(parent, base, () => makeFolder(parent.fd, name, 0o700), "mkdir");
      fd = openFolder(parent.fd, name, O.RDONLY);
      if (fd < 0) throw this.#failed("open", fd);
      // What the lower layers have under this name was deleted by this layer: the new folder starts empty.
      if (this.#whiteouts.delete(path)) this.#markOpaque(fd, path);
    }
    try {
      this.#attributes(fd, header);
    } finally {
      closeQuietly(fd);
    }
    this.#implied.delete(path);
    this.#folderTimes.set(path, header);
  }

  #link(parent: Folder, base: string, header: TarHeader): void {
    const target = cleanPath(header.linkName);
    const slash = target.lastIndexOf("/");
    const targetName = target.slice(slash + 1);
    const name = encodeName(base);
    if (target === "")
      throw classified("invalid-argument", `link to ${JSON.stringify(header.linkName)}: invalid archive`);
    const from = slash < 0 ? this.#root : this.#folder(target.slice(0, slash), false);
    if (from === undefined) throw this.#noTarget(header);
    // An archive that lists a file twice links it to itself.
    if (from.path === parent.path && targetName === base && this.#unpacked.has(join(from.path, base))) return;
    this.#linkFrom = from;
    const link = (): number => makeLink(from.fd, encodeName(targetName), parent.fd, name);
    let result = this.#attempt(parent, base, link);
    if (result === -ERRNO.ENOENT && this.#copyUp(from, targetName)) result = this.#attempt(parent, base, link);
    if (result === -ERRNO.ENOENT) throw this.#noTarget(header);
    if (result < 0) throw this.#failed("link", result);
    this.#linkFrom = undefined;
    this.#entryAttributes(parent, name, header, !isSymlink(statAt(parent.fd, name)));
  }

  #noTarget(header: TarHeader): Error {
    const names = `${JSON.stringify(header.linkName)} to ${JSON.stringify(header.name)}`;
    return classified("invalid-argument", `link ${names}: no such file or directory in this layer: invalid archive`);
  }

  /**
   * A hard link to a file of a layer below: on a mounted overlay the kernel copies the file up. Here we do, from the
   * nearest layer that has it. See docs/decisions/0052.
   */
  #copyUp(folder: Folder, base: string): boolean {
    const path = join(folder.path, base);
    const name = encodeName(path);
    for (const lower of this.#options.lowers) {
      let source: number;
      try {
        const resolve = RESOLVE.BENEATH | RESOLVE.NO_SYMLINKS;
        source = openAt2(lower, name, { flags: O.RDONLY | O.NOFOLLOW | O.NONBLOCK, resolve });
      } catch (error) {
        if (error instanceof SyscallError && error.errno === ERRNO.ENOENT) continue;
        return false;
      }
      try {
        const stat = statFd(source);
        if (!isRegular(stat)) return false;
        const fd = openEntry(folder.fd, encodeName(base), O.WRONLY | O.CREAT | O.EXCL, 0o600);
        if (fd < 0) return false;
        try {
          copyBytes(source, fd);
          this.#must(chownOpen(fd, stat.uid, stat.gid), "chown");
          copyXattrs(source, fd);
          this.#must(chmodOpen(fd, stat.mode & 0o7777), "chmod");
          this.#must(utimesOpen(fd, stat.atime, stat.mtime), "utimes");
        } finally {
          closeQuietly(fd);
        }
        return true;
      } finally {
        closeQuietly(source);
      }
    }
    return false;
  }

  /** Owner, attributes and mode of what is open; in that order, since chown clears set-id bits and capabilities. */
  #attributes(fd: number, header: TarHeader): void {
    this.#must(chownOpen(fd, header.uid, header.gid), "chown");
    if (header.xattrs !== undefined) {
      for (const [key, value] of header.xattrs) {
        if (this.#wanted(key)) this.#xattrResult(setXattrOpen(fd, key, value), key, true);
      }
    }
    this.#must(chmodOpen(fd, header.mode), "chmod");
  }

  /** As {@link #attributes}, times included, for what cannot be opened. */
  #entryAttributes(parent: Folder, name: string | Uint8Array, header: TarHeader, withMode: boolean): void {
    this.#must(chownEntry(parent.fd, name, header.uid, header.gid), "chown");
    if (header.xattrs !== undefined) {
      for (const [key, value] of header.xattrs) {
        if (this.#wanted(key)) this.#xattrResult(setXattrEntry(parent.fd, name, key, value), key, false);
      }
    }
    if (withMode) this.#chmod(parent, name, header.mode);
    const { atime, mtime } = timesOf(header);
    this.#must(utimesEntry(parent.fd, name, atime, mtime), "utimes");
  }

  #chmod(parent: Folder, name: string | Uint8Array, mode: number): void {
    const result = chmodEntry(parent.fd, name, mode);
    if (result !== -ERRNO.ENOSYS) {
      this.#must(result, "chmod");
      return;
    }
    // Before Linux 6.6. Opening a device would reach its driver, were the mount not nodev; a FIFO opens without waiting.
    const fd = openEntry(parent.fd, name, O.RDONLY | O.NONBLOCK | O.NOCTTY);
    if (fd === -ERRNO.EACCES || fd === -ERRNO.ENXIO) {
      this.#warn(`mode of ${JSON.stringify(this.#base)} not set: this kernel cannot change a device's mode safely`);
      return;
    }
    if (fd < 0) throw this.#failed("chmod", fd);
    const done = chmodOpen(fd, mode);
    closeQuietly(fd);
    this.#must(done, "chmod");
  }

  /** Attributes of the trusted namespace would let an image steer overlayfs; containerd leaves them out as well. */
  #wanted(key: string): boolean {
    if (key.startsWith(TRUSTED) || (this.#options.userXattr && key.startsWith("user.overlay."))) {
      this.#warn(`ignored xattr ${key} of ${JSON.stringify(this.#header?.name ?? "")}`);
      return false;
    }
    return true;
  }

  #xattrResult(result: number, key: string, openable: boolean): void {
    if (result >= 0) return;
    // user.* exists only on files and folders; some file systems have no attributes at all. As containerd, go on.
    const userElsewhere = result === -ERRNO.EPERM && key.startsWith(USER) && !openable;
    if (userElsewhere || result === -ERRNO.EOPNOTSUPP) {
      this.#warn(`ignored xattr ${key} of ${JSON.stringify(this.#header?.name ?? "")}`);
      return;
    }
    throw new SyscallError({ syscall: "setxattr", errno: -result, target: this.#header?.name ?? "", detail: key });
  }

  /** Runs `make` (which fails with EEXIST while the name is taken), removing what is in its place. */
  #replacing(parent: Folder, base: string, make: () => number, what: string): number {
    const result = this.#attempt(parent, base, make);
    if (result < 0) throw this.#failed(what, result);
    return result;
  }

  #attempt(parent: Folder, base: string, make: () => number): number {
    let result = make();
    for (let races = 0; result === -ERRNO.EEXIST && races < MAX_RACES; races++) {
      this.#remove(parent, base);
      result = make();
    }
    return result;
  }

  /** Removes a name with all below it. Remembered folders may have gone through it, so they are forgotten. */
  #remove(parent: Folder, base: string): void {
    const name = encodeName(base);
    const result = unlinkEntry(parent.fd, name);
    if (result === -ERRNO.EISDIR) {
      this.#forgetFolders(parent, this.#linkFrom);
      removeTreeAt(parent.fd, name);
    } else if (result < 0 && result !== -ERRNO.ENOENT) throw this.#failed("unlink", result);
    else if (this.#folders.size > 1) this.#forgetFolders(parent, this.#linkFrom);
  }

  // Deleting

  /** `.wh.name`: the layers below lose `name`; what this layer itself has there stays (image-spec layer.md). */
  #hide(parent: Folder, base: string, header: TarHeader): void {
    const path = join(parent.path, base);
    if (this.#ours(path)) {
      const fd = openFolder(parent.fd, encodeName(base), O.RDONLY);
      if (fd < 0) return;
      try {
        this.#hideAll({ fd, path });
      } finally {
        closeQuietly(fd);
      }
      return;
    }
    if (!this.#options.overlay) {
      this.#remove(parent, base);
      return;
    }
    this.#header = header;
    this.#base = base;
    const name = encodeName(base);
    this.#replacing(parent, base, () => makeNode(parent.fd, name, S.IFCHR), "mknod");
    this.#must(chownEntry(parent.fd, name, header.uid, header.gid), "chown");
    this.#whiteouts.add(path);
  }

  /** `.wh..wh..opq`: the folder shows nothing of the layers below. */
  #hideAll(folder: Folder): void {
    if (this.#opaque.has(folder.path)) return;
    if (this.#options.overlay) {
      const fd = folder.path === "" ? folder.fd : openFolder(folder.fd, ".", O.RDONLY);
      if (fd < 0) throw this.#failed("open", fd);
      try {
        this.#markOpaque(fd, folder.path);
      } finally {
        if (fd !== folder.fd) closeQuietly(fd);
      }
      return;
    }
    this.#opaque.add(folder.path);
    this.#deleteForeign(folder);
  }

  #markOpaque(fd: number, path: string): void {
    this.#opaque.add(path);
    if (!this.#options.overlay) return;
    const key = this.#options.userXattr ? "user.overlay.opaque" : "trusted.overlay.opaque";
    this.#must(setXattrOpen(fd, key, MARK), "setxattr");
  }

  /** Deletes below `folder` all that this layer did not put there. */
  #deleteForeign(folder: Folder): void {
    const fd = openFolder(folder.fd, ".", O.RDONLY);
    if (fd < 0) throw this.#failed("open", fd);
    try {
      for (const { name, type } of listDirectory(fd)) {
        const base = typeof name === "string" ? name : decodeName(name);
        const path = join(folder.path, base);
        if (!this.#ours(path)) {
          this.#remove({ fd, path: folder.path }, base);
          continue;
        }
        if (type !== DT.DIR && type !== DT.UNKNOWN) continue;
        const child = openFolder(fd, name, O.RDONLY);
        if (child < 0) continue;
        try {
          this.#deleteForeign({ fd: child, path });
        } finally {
          closeQuietly(child);
        }
      }
    } finally {
      closeQuietly(fd);
    }
  }

  // Finding folders

  /** The folder an archive's path means, links resolved inside the root; missing ones are made if `make`. */
  #folder(path: string, make: true): Folder;
  #folder(path: string, make: boolean): Folder | undefined;
  #folder(path: string, make: boolean): Folder | undefined {
    if (path === "") return this.#root;
    const known = this.#folders.get(path);
    if (known !== undefined) {
      this.#folders.delete(path);
      this.#folders.set(path, known);
      return known;
    }
    const slash = path.lastIndexOf("/");
    const parent = slash < 0 ? this.#root : this.#folders.get(path.slice(0, slash));
    if (parent !== undefined) {
      const base = path.slice(slash + 1);
      const fd = openFolder(parent.fd, encodeName(base));
      if (fd >= 0) return this.#remember(path, { fd, path: join(parent.path, base) });
    }
    const walked = this.#walk(path, make);
    return walked === undefined ? undefined : this.#remember(path, walked);
  }

  #walk(path: string, make: boolean): Folder | undefined {
    const stack: Folder[] = [this.#root];
    const pending = path.split("/").toReversed();
    let links = 0;
    const top = (): Folder => stack.at(-1) ?? this.#root;
    const pop = (): void => {
      const folder = stack.pop();
      if (folder !== undefined) closeQuietly(folder.fd);
    };
    try {
      for (let races = 0; pending.length > 0; ) {
        const part = pending.pop() ?? "";
        if (part === "" || part === ".") continue;
        if (part === "..") {
          if (stack.length > 1) pop();
          continue;
        }
        const { fd: parent, path: above } = top();
        const name = encodeName(part);
        const here = join(above, part);
        const fd = openFolder(parent, name);
        if (fd >= 0) {
          stack.push({ fd, path: here });
          continue;
        }
        if (fd === -ERRNO.ENOENT) {
          if (!make) return undefined;
          const made = makeFolder(parent, name, 0o755);
          if (made < 0 && made !== -ERRNO.EEXIST)
            throw new SyscallError({ syscall: "mkdir", errno: -made, target: here });
          if (made >= 0) this.#imply(parent, name, here);
          if (made < 0 && ++races > MAX_RACES) throw new SyscallError({ syscall: "mkdir", errno: -made, target: here });
          pending.push(part);
          continue;
        }
        const text = readLinkEntry(parent, name);
        if (typeof text === "number") {
          // Gone or changed since: look again; still the same: it is neither a folder nor a link.
          if ((text === -ERRNO.EINVAL && fd === -ERRNO.ENOTDIR) || ++races > MAX_RACES) {
            throw new SyscallError({ syscall: "mkparent", errno: fd < 0 ? -fd : ERRNO.ENOTDIR, target: here });
          }
          pending.push(part);
          continue;
        }
        if (++links > MAX_LINKS) throw new SyscallError({ syscall: "resolve", errno: ERRNO.ELOOP, target: path });
        const target = decodeName(text);
        if (target.startsWith("/")) while (stack.length > 1) pop();
        pending.push(...target.split("/").toReversed());
      }
      const found = top();
      if (stack.length > 1) stack.pop();
      return found;
    } finally {
      while (stack.length > 1) pop();
    }
  }

  /** A folder no entry named was made: it takes the attributes the nearest lower layer has for it. */
  #imply(parent: number, name: string | Uint8Array, path: string): void {
    if (this.#whiteouts.delete(path)) {
      const fd = openFolder(parent, name, O.RDONLY);
      if (fd >= 0) this.#markOpaque(fd, path);
      if (fd >= 0) closeQuietly(fd);
      this.#implied.set(path, undefined);
      return;
    }
    for (const lower of this.#options.lowers) {
      let source: number;
      try {
        source = openAt2(lower, encodeName(path), {
          flags: O.RDONLY | O.NOFOLLOW | O.NONBLOCK | O.NOCTTY,
          resolve: RESOLVE.IN_ROOT,
        });
      } catch (error) {
        if (error instanceof SyscallError && error.errno === ERRNO.ENOENT) continue;
        break; // something else took its place there: nothing to inherit
      }
      try {
        const stat = statFd(source);
        if (!isDirectory(stat)) break;
        const fd = openFolder(parent, name, O.RDONLY);
        if (fd < 0) break;
        try {
          this.#must(chownOpen(fd, stat.uid, stat.gid), "chown");
          copyXattrs(source, fd);
          this.#must(chmodOpen(fd, stat.mode & 0o7777), "chmod");
        } finally {
          closeQuietly(fd);
        }
        this.#implied.set(path, stat);
        return;
      } finally {
        closeQuietly(source);
      }
    }
    this.#implied.set(path, undefined);
  }

  #remember(path: string, folder: Folder): Folder {
    if (folder.fd === this.#root.fd) return folder; // a link to the root: its descriptor is not ours to close
    if (this.#folders.size >= MAX_FOLDERS) {
      for (const [old, { fd }] of this.#folders) {
        this.#folders.delete(old);
        closeQuietly(fd);
        break;
      }
    }
    this.#folders.set(path, folder);
    return folder;
  }

  /** Forgets all folders but those the current entry still works in. */
  #forgetFolders(...kept: readonly (Folder | undefined)[]): void {
    for (const [path, folder] of this.#folders) {
      if (kept.includes(folder)) continue;
      this.#folders.delete(path);
      closeQuietly(folder.fd);
    }
  }

  /** Opens a folder by its path without links, or minus the errno. */
  #reopen(path: string): number {
    return openFolder(this.#root.fd, encodeName(path), O.RDONLY);
  }

  #must(result: number, what: string): void {
    if (result < 0) throw this.#failed(what, result);
  }

  #failed(syscall: string, negative: number): SyscallError {
    return new SyscallError({ syscall, errno: -negative, target: this.#header?.name ?? this.#base });
  }

  #warn(text: string): void {
    this.#warned++;
    if (this.#warned <= MAX_REPORTED) this.#warnings.push(text);
  }
}

function isUint32(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= 0xffff_ffff;
}

function join(folder: string, base: string): string {
  return folder === "" ? base : `${folder}/${base}`;
}

const NEEDS_CLEANING = /(^|\/)(\.{0,2})(\/|$)/;

/** The path as Go's filepath.Clean has it, relative to the root: no `.`, `..` or empty parts; "" for the root. */
export function cleanPath(name: string): string {
  let start = 0;
  if (name.startsWith("./")) start = 2;
  let end = name.length;
  if (end > start && name.endsWith("/")) end--;
  const path = start === 0 && end === name.length ? name : name.slice(start, end);
  if (path === "" || !NEEDS_CLEANING.test(path)) return path;
  const parts: string[] = [];
  for (const part of path.split("/")) {
    if (part === "" || part === ".") continue;
    if (part === "..") parts.pop();
    else parts.push(part);
  }
  return parts.join("/");
}

/** Access time is the later of the two, as containerd has it; times before 1970 become 1970. */
function timesOf(header: TarHeader): { atime: TarHeader["mtime"]; mtime: TarHeader["mtime"] } {
  const mtime = header.mtime.seconds < 0 ? EPOCH : header.mtime;
  const given = header.atime;
  if (given === undefined || given.seconds < mtime.seconds) return { atime: mtime, mtime };
  const later = given.seconds > mtime.seconds || given.nanoseconds > mtime.nanoseconds;
  return { atime: later ? given : mtime, mtime };
}

const EPOCH = { seconds: 0, nanoseconds: 0 };

/**
 * A folder an entry names has the attributes the entry gives it, and no others of a lower layer: as on overlayfs, where
 * the upper folder's are the ones that show. What the host set (trusted, SELinux) stays.
 */
function dropXattrs(fd: number, header: TarHeader): void {
  const names = listXattrsOpen(fd);
  for (const name of typeof names === "number" ? [] : names) {
    const given = header.xattrs?.has(name) ?? false;
    if (!given && !name.startsWith(TRUSTED) && name !== "security.selinux") removeXattrOpen(fd, name);
  }
}

const COPY_SIZE = 1 << 20;

function copyBytes(from: number, to: number): void {
  const buffer = new Uint8Array(COPY_SIZE);
  for (let offset = 0; ; ) {
    const n = readAtOffset(from, buffer, offset);
    if (n === 0) return;
    for (let at = 0; at < n; ) {
      const written = writeFrom(to, buffer.subarray(at, n));
      if (written < 0) throw new SyscallError({ syscall: "write", errno: -written });
      at += written;
    }
    offset += n;
  }
}

function readAtOffset(fd: number, buffer: Uint8Array, offset: number): number {
  const n = readAt(fd, buffer, offset);
  if (n < 0) throw new SyscallError({ syscall: "read", errno: -n });
  return n;
}

/** Copies what is not of the trusted namespace; what the target's file system refuses is left out. */
function copyXattrs(from: number, to: number): void {
  const names = listXattrsOpen(from);
  if (typeof names === "number") return;
  for (const name of names) {
    if (name.startsWith(TRUSTED)) continue;
    const value = getXattrOpen(from, name);
    if (typeof value !== "number") setXattrOpen(to, name, value);
  }
}
