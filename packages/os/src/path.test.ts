import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { isErrorClass } from "@stevedore/base/errors";
import { closeFd, O, writeAll } from "./fd.ts";
import { MNT, MS, mountRaw, unmountRecursive } from "./mount.ts";
import { chownFd, openAt2, RESOLVE, Root, removeTree, utimesFd } from "./path.ts";
import { spawnChild } from "./spawn.ts";
import { fileIdentity, S } from "./stat.ts";

let dir = "";

beforeEach(() => {
  dir = mkdtempSync("/tmp/os-path-");
  mountRaw("tmpfs", dir, { type: "tmpfs" }); // a file system with nothing of others' on it
  mkdirSync(`${dir}/root/etc`, { recursive: true });
  mkdirSync(`${dir}/outside`);
  writeFileSync(`${dir}/outside/secret`, "secret");
  writeFileSync(`${dir}/root/etc/passwd`, "inside");
});

afterEach(() => {
  unmountRecursive(dir, { flags: MNT.DETACH });
  rmSync(dir, { recursive: true, force: true });
});

const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);

describe("nothing leaves the root", () => {
  test("absolute symlinks, .. and nested links stay inside", () => {
    using root = Root.open(`${dir}/root`);
    symlinkSync("/etc", `${dir}/root/abs`);
    symlinkSync("../../../../outside", `${dir}/root/up`);
    symlinkSync(`${dir}/outside/secret`, `${dir}/root/file`);
    expect(text(root.read("abs/passwd", 100))).toBe("inside");
    expect(text(root.read("../../../etc/passwd", 100))).toBe("inside");
    expect(text(root.read("/etc/passwd", 100))).toBe("inside");
    expect(() => root.read("up/secret", 100)).toThrow("no such file");
    expect(() => root.read("file", 100)).toThrow("no such file");
    expect(() => root.unlink("up/secret")).toThrow("no such file");
    expect(() => root.mkdir("a/..")).toThrow('ends in ".."');
    expect(readFileSync(`${dir}/outside/secret`, "utf8")).toBe("secret");
  });

  test("the last component is never followed by what changes things", () => {
    using root = Root.open(`${dir}/root`);
    symlinkSync("etc/passwd", `${dir}/root/l`);
    const before = lstatSync(`${dir}/root/etc/passwd`);
    root.chown("l", 5, 6);
    root.utimes("l", { seconds: 1, nanoseconds: 2 }, { seconds: 3, nanoseconds: 4 });
    expect(root.stat("l")).toMatchObject({ uid: 5, gid: 6, mtime: { seconds: 3, nanoseconds: 4 } });
    expect(lstatSync(`${dir}/root/etc/passwd`).mtimeMs).toBe(before.mtimeMs);
    expect(() => root.createFile("l")).toThrow("file exists");
    root.link("l", "l2");
    expect(readlinkSync(`${dir}/root/l2`)).toBe("etc/passwd");
    root.unlink("l");
    expect(readFileSync(`${dir}/root/etc/passwd`, "utf8")).toBe("inside");
  });

  test("BENEATH refuses what IN_ROOT bends", () => {
    using root = Root.open(`${dir}/root`);
    symlinkSync("/etc", `${dir}/root/abs`);
    const open = (path: string, resolve: number) => () => openAt2(root.fd, path, { flags: O.PATH, resolve });
    expect(open("../outside", RESOLVE.BENEATH)).toThrow("cross-device");
    expect(open("abs/passwd", RESOLVE.BENEATH)).toThrow("cross-device");
    expect(open("abs", RESOLVE.IN_ROOT | RESOLVE.NO_SYMLINKS)).toThrow("symbolic links");
    expect(open("a\0b", RESOLVE.BENEATH)).toThrow("NUL inside");
  });

  test("a FIFO or a folder in a file's place is refused, not waited for", () => {
    using root = Root.open(`${dir}/root`);
    root.mknod("fifo", S.IFIFO | 0o600);
    expect(() => root.read("fifo", 10)).toThrow("not a regular file");
    expect(() => root.read("etc", 10)).toThrow("not a regular file");
    expect(() => root.read("etc/passwd", 3)).toThrow("longer than 3 bytes");
  });
});

test("files, folders, links, devices, attributes", () => {
  using root = Root.open(`${dir}/root`);
  expect(root.mkdirAll("a/b/c", 0o700)).toEqual(["a", "a/b", "a/b/c"]);
  expect(root.mkdirAll("a/b/c")).toEqual([]);
  const fd = root.createFile("a/b/c/f", 0o600);
  writeAll(fd, new TextEncoder().encode("hello"));
  chownFd(fd, 10, 20);
  utimesFd(fd, { seconds: -5, nanoseconds: 6 }, { seconds: 7, nanoseconds: 8 });
  closeFd(fd);
  root.chmod("a/b/c/f", 0o4755);
  root.setXattr("a/b/c/f", "trusted.t", new Uint8Array([1, 0, 2]));
  root.setXattr("a", "trusted.overlay.opaque", new Uint8Array([121]));
  expect(root.stat("a/b/c/f")).toMatchObject({ mode: S.IFREG | 0o4755, uid: 10, gid: 20, size: 5, nlink: 1 });
  expect(root.stat("a/b/c/f").atime).toEqual({ seconds: -5, nanoseconds: 6 });
  expect(root.getXattr("a/b/c/f", "trusted.t")).toEqual(new Uint8Array([1, 0, 2]));
  expect(root.getXattr("a/b/c/f", "trusted.missing")).toBeUndefined();
  expect(root.listXattrs("a")).toEqual(["trusted.overlay.opaque"]);
  root.removeXattr("a", "trusted.overlay.opaque");
  root.link("a/b/c/f", "hard");
  expect(fileIdentity(root.stat("hard"))).toBe(fileIdentity(root.stat("a/b/c/f")));
  root.symlink("a/b/c/f", "soft");
  expect(root.readLink("soft")).toBe("a/b/c/f");
  root.mknod("null", S.IFCHR | 0o666, { major: 1, minor: 3 });
  expect(root.stat("null")).toMatchObject({ rdevMajor: 1, rdevMinor: 3 });
  root.rename("hard", "moved");
  expect(() => root.rename("moved", "soft", { noReplace: true })).toThrow("file exists");
  const names = root.list("").map((entry) => String(entry.name));
  expect(new Set(names)).toEqual(new Set(["a", "etc", "moved", "null", "soft"]));
  root.removeAll("a");
  root.removeAll("soft");
  root.removeAll("missing");
  expect(root.statIfAny("a")).toBeUndefined();
});

test("names that are not UTF-8 survive", () => {
  using root = Root.open(`${dir}/root`);
  const name = new Uint8Array([0x61, 0xff, 0x62]);
  root.mkdir(name);
  closeFd(root.createFile(Buffer.concat([name, Buffer.from("/x"), new Uint8Array([0xfe])])));
  const [entry] = root.list("").filter((entry) => entry.name !== "etc");
  expect(entry?.name).toEqual(name);
  root.removeAll(name);
  expect(root.list("").map((entry) => entry.name)).toEqual(["etc"]);
});

test("a replaced symlink on the way is seen after unlink", () => {
  using root = Root.open(`${dir}/root`);
  root.mkdirAll("one");
  root.mkdirAll("two");
  root.symlink("one", "way");
  closeFd(root.createFile("way/f"));
  root.unlink("way");
  root.symlink("two", "way");
  closeFd(root.createFile("way/f"));
  expect([existsSync(`${dir}/root/one/f`), existsSync(`${dir}/root/two/f`)]).toEqual([true, true]);
});

describe("removeTree()", () => {
  test("removes wide and very deep trees, symlinks themselves, odd names", () => {
    using root = Root.open(`${dir}/root`);
    const deep = Array.from({ length: 400 }, (_, i) => `d${i}`);
    let at = "";
    for (const part of deep) {
      at = at === "" ? part : `${at}/${part}`;
      root.mkdir(at);
      closeFd(root.createFile(`${at}/f`));
    }
    for (let i = 0; i < 2_000; i++) closeFd(root.createFile(`file-${i}`));
    root.symlink(`${dir}/outside`, "out");
    root.symlink("../outside", "out2");
    removeTree(`${dir}/root`);
    expect(existsSync(`${dir}/root`)).toBe(false);
    expect(readFileSync(`${dir}/outside/secret`, "utf8")).toBe("secret");
    removeTree(`${dir}/root`);
    removeTree(`${dir}/root/missing/more`);
  });

  test("a symlink in the tree's place is refused", () => {
    symlinkSync(`${dir}/outside`, `${dir}/link`);
    expect(() => removeTree(`${dir}/link`)).toThrow();
    expect(existsSync(`${dir}/outside/secret`)).toBe(true);
  });

  test("nothing is removed while something is mounted below", () => {
    mkdirSync(`${dir}/root/rootfs`);
    mountRaw(`${dir}/outside`, `${dir}/root/rootfs`, { flags: MS.BIND });
    try {
      removeTree(`${dir}/root`);
      expect.unreachable();
    } catch (error) {
      expect(isErrorClass(error, "failed-precondition")).toBe(true);
      expect(String(error)).toContain(`${dir}/root/rootfs is mounted`);
    }
    expect(existsSync(`${dir}/outside/secret`)).toBe(true);
    expect(existsSync(`${dir}/root/etc/passwd`)).toBe(true);
    expect(() => removeTree(`${dir}/root/rootfs`)).toThrow("is mounted");
  });

  test("a mount point that still holds something stops the removal", () => {
    mkdirSync(`${dir}/root/rootfs/x`, { recursive: true });
    expect(() => removeTree(`${dir}/root`, { mountPoints: ["rootfs"] })).toThrow("mount point rootfs is in use");
    expect(existsSync(`${dir}/root/etc/passwd`)).toBe(true);
    rmSync(`${dir}/root/rootfs/x`, { recursive: true });
    removeTree(`${dir}/root`, { mountPoints: ["rootfs", "missing"] });
    expect(existsSync(`${dir}/root`)).toBe(false);
  });
});

test("a concurrent symlink swapper gets nothing outside written or removed", async () => {
  mkdirSync(`${dir}/root/real`);
  symlinkSync(`${dir}/outside`, `${dir}/root/swap`);
  const swapper = `
    const { renameExchange } = await import(${JSON.stringify(new URL("./files.ts", import.meta.url).href)});
    for (;;) try { renameExchange(${JSON.stringify(`${dir}/root/real`)}, ${JSON.stringify(`${dir}/root/swap`)}) } catch {}`;
  await using child = spawnChild([process.execPath, "-e", swapper]);
  await Bun.sleep(100);
  let made = 0;
  const until = performance.now() + 400;
  // Without one race of ours won, nothing was shown.
  while (performance.now() < until || (made === 0 && performance.now() < until + 5000)) {
    using root = Root.open(`${dir}/root`);
    try {
      closeFd(root.createFile(`real/f${made}`));
      made++;
      root.chmod(`real/f${made}`, 0o777);
    } catch {}
    try {
      root.removeAll("swap");
    } catch {}
    try {
      removeTree(`${dir}/root/real`);
    } catch {}
    // Both names may be links by now; without this no round would find a folder again.
    try {
      root.removeAll("real");
    } catch {}
    try {
      root.mkdir("real");
    } catch {}
    try {
      root.symlink(`${dir}/outside`, "swap");
    } catch {}
  }
  child.kill(9);
  await child.exited;
  expect(readFileSync(`${dir}/outside/secret`, "utf8")).toBe("secret");
  expect(readdirSync(`${dir}/outside`)).toEqual(["secret"]);
  expect(lstatSync(`${dir}/outside`).mode & 0o777).toBe(0o755);
  expect(made).toBeGreaterThan(0);
});

// The unpack worker's loop. The promise is 20,000 files in a second with everything set; this holds a quarter of that.
test("5,000 files with owner, mode and times take well under a second", () => {
  mkdirSync(`${dir}/fast`);
  mountRaw("tmpfs", `${dir}/fast`, { type: "tmpfs" });
  using root = Root.open(`${dir}/fast`);
  const body = new TextEncoder().encode("x".repeat(100));
  const when = { seconds: 1_600_000_000, nanoseconds: 0 };
  const started = performance.now();
  for (let d = 0; d < 50; d++) {
    root.mkdirAll(`usr/share/d${d}`);
    for (let f = 0; f < 100; f++) {
      const fd = root.createFile(`usr/share/d${d}/file-${f}`, 0o644);
      writeAll(fd, body);
      chownFd(fd, 1, 1);
      utimesFd(fd, when, when);
      closeFd(fd);
    }
  }
  expect(performance.now() - started).toBeLessThan(5_000);
});
