import {
  chmodSync,
  lchownSync,
  linkSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname } from "node:path";
import { makeNode, openEntry, setXattrEntryAt, truncateOpen, writeAt } from "./at-calls.ts";
import { AT, closeQuietly, O } from "./fd.ts";
import { S } from "./stat.ts";

/** Only for tests: trees made by small steps, so that random ones can be made. */

export type Step =
  | { readonly do: "folder"; readonly path: string; readonly mode: number }
  | { readonly do: "file"; readonly path: string; readonly size: number; readonly fill: number; readonly mode: number }
  | { readonly do: "holes"; readonly path: string; readonly size: number }
  | { readonly do: "symlink"; readonly path: string; readonly to: string }
  | { readonly do: "link"; readonly path: string; readonly to: string }
  | { readonly do: "fifo" | "char"; readonly path: string }
  | { readonly do: "owner"; readonly path: string; readonly id: number }
  | { readonly do: "attribute"; readonly path: string; readonly value: number }
  | { readonly do: "remove"; readonly path: string };

/** Times are whole seconds that grow, so that every change shows. */
let clock = 1_000_000_000;

/** Carries the steps out in `root`; those that cannot be are left out. Symlinks on the way are never gone through. */
export function carryOut(root: string, list: readonly Step[]): void {
  for (const item of list) {
    try {
      if (throughLink(root, item.path)) continue;
      one(root, item);
      const stat = lstatSync(`${root}/${item.path}`);
      if (!stat.isDirectory()) lutimesSync(`${root}/${item.path}`, ++clock, clock);
    } catch (error) {
      const code = error instanceof Error && "code" in error ? error.code : "";
      if (
        !/^(?:ERR_FS_)?(EEXIST|ENOENT|ENOTDIR|EISDIR|EPERM|ELOOP|ENXIO|ENOTSUP|EOPNOTSUPP|EINVAL|ENAMETOOLONG)$/.test(
          String(code),
        )
      )
        throw error;
    }
  }
}

function throughLink(root: string, name: string): boolean {
  for (let at = dirname(name); at !== "."; at = dirname(at)) {
    try {
      if (lstatSync(`${root}/${at}`).isSymbolicLink()) return true;
    } catch {
      continue;
    }
  }
  return false;
}

function one(root: string, item: Step): void {
  const full = `${root}/${item.path}`;
  switch (item.do) {
    case "folder":
      mkdirSync(full, { recursive: true });
      if (lstatSync(full).isDirectory()) chmodSync(full, item.mode | 0o700);
      return;
    case "file":
      mkdirSync(dirname(full), { recursive: true });
      rmSync(full, { force: true });
      break;
    case "holes":
    case "symlink":
    case "link":
    case "fifo":
    case "char":
      mkdirSync(dirname(full), { recursive: true });
      break;
    case "owner":
      lchownSync(full, item.id, item.id + 1);
      return;
    case "attribute": {
      const dir = openEntry(AT.FDCWD, root, O.RDONLY | O.DIRECTORY);
      setXattrEntryAt(dir, item.path, "user.test", new Uint8Array([item.value, 0, 255]));
      closeQuietly(dir);
      return;
    }
    case "remove":
      rmSync(full, { recursive: true });
      return;
    default:
      item satisfies never;
  }
  make(root, item);
}

function make(root: string, item: Step): void {
  const full = `${root}/${item.path}`;
  switch (item.do) {
    case "file":
      writeFileSync(full, new Uint8Array(item.size).fill(item.fill), { flag: "wx" });
      chmodSync(full, item.mode);
      return;
    case "holes": {
      const fd = openEntry(AT.FDCWD, full, O.WRONLY | O.CREAT | O.EXCL, 0o644);
      if (fd < 0) return;
      truncateOpen(fd, item.size);
      writeAt(fd, new Uint8Array([1, 2, 3]), Math.floor(item.size / 2));
      closeQuietly(fd);
      return;
    }
    case "symlink":
      symlinkSync(item.to, full);
      return;
    case "link":
      if (!throughLink(root, item.to)) linkSync(`${root}/${item.to}`, full);
      return;
    case "fifo":
      makeNode(AT.FDCWD, full, S.IFIFO | 0o640);
      return;
    case "char":
      makeNode(AT.FDCWD, full, S.IFCHR | 0o660, { major: 1, minor: 7 });
      return;
    case "folder":
    case "owner":
    case "attribute":
    case "remove":
      return;
    default:
      item satisfies never;
  }
}
