import { afterEach, beforeEach, expect, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import {
  FileLock,
  FS_MAGIC,
  fileSystemInfo,
  makeFolder,
  renameExchange,
  renameNoReplace,
  reserveSpace,
  startWriteback,
  syncFile,
  syncFileData,
  syncFileSystem,
  syncFolder,
  writeFileDurably,
} from "./files.ts";
import { fileIdentity, getXattr, listXattrs, makeDevice, removeXattr, setXattr, statPath } from "./stat.ts";

let dir = "";
beforeEach(() => {
  dir = mkdtempSync("/tmp/os-files-");
});
afterEach(() => rmSync(dir, { recursive: true }));

test("durable writes replace whole and leave nothing else", () => {
  writeFileDurably(`${dir}/f`, new TextEncoder().encode("one"), 0o600);
  writeFileDurably(`${dir}/f`, new TextEncoder().encode("two"), 0o600);
  expect(readFileSync(`${dir}/f`, "utf8")).toBe("two");
  expect(statSync(`${dir}/f`).mode & 0o777).toBe(0o600);
  expect(readdirSync(dir)).toEqual(["f"]);
  expect(() => writeFileDurably(`${dir}/no/f`, new Uint8Array())).toThrow("no such file");
});

test("syncs and reservations", () => {
  const fd = openSync(`${dir}/f`, "w+");
  expect(reserveSpace(fd, 0, 1 << 20)).toBe(true);
  expect(statSync(`${dir}/f`).size).toBe(1 << 20);
  startWriteback(fd);
  syncFile(fd);
  syncFileData(fd);
  closeSync(fd);
  syncFolder(dir);
  syncFileSystem(dir);
  expect(() => syncFile(-1)).toThrow("bad file descriptor");
});

test("renames that never replace, and swaps", () => {
  writeFileSync(`${dir}/a`, "a");
  writeFileSync(`${dir}/b`, "b");
  expect(() => renameNoReplace(`${dir}/a`, `${dir}/b`)).toThrow("file exists");
  renameNoReplace(`${dir}/a`, `${dir}/c`);
  renameExchange(`${dir}/b`, `${dir}/c`);
  expect([readFileSync(`${dir}/b`, "utf8"), readFileSync(`${dir}/c`, "utf8")]).toEqual(["a", "b"]);
});

test("one holder of an exclusive lock, many of a shared one", () => {
  {
    using one = FileLock.take(`${dir}/lock`);
    expect(one).toBeDefined();
    expect(FileLock.take(`${dir}/lock`)).toBeUndefined();
    expect(FileLock.take(`${dir}/lock`, { shared: true })).toBeUndefined();
  }
  using first = FileLock.take(`${dir}/lock`, { shared: true });
  using second = FileLock.take(`${dir}/lock`, { shared: true });
  expect([first, second].every((lock) => lock !== undefined)).toBe(true);
});

test("file systems tell their type and space", () => {
  expect(fileSystemInfo("/proc").type).toBe(FS_MAGIC.PROC);
  const info = fileSystemInfo(dir);
  expect(info.total).toBeGreaterThan(info.free);
  expect(info.free).toBeGreaterThan(0);
  expect(() => fileSystemInfo(`${dir}/missing`)).toThrow("no such file");
});

test("extended attributes and identity by path", () => {
  writeFileSync(`${dir}/f`, "");
  setXattr(`${dir}/f`, "user.a", new Uint8Array([1, 2]));
  expect(listXattrs(`${dir}/f`)).toContain("user.a");
  expect(getXattr(`${dir}/f`, "user.a")).toEqual(new Uint8Array([1, 2]));
  removeXattr(`${dir}/f`, "user.a");
  removeXattr(`${dir}/f`, "user.a");
  expect(getXattr(`${dir}/f`, "user.a")).toBeUndefined();
  expect(fileIdentity(statPath(`${dir}/f`))).toBe(fileIdentity(statPath(`${dir}/f`, { follow: true })));
  expect(makeDevice(8, 1)).toBe(0x801n);
  expect(makeDevice(0x12345, 0x6789a)).toBe(0x120006783459an); // as glibc's makedev has it
});

test("makeFolder() sets the mode whatever the umask, and leaves existing ones", () => {
  expect(makeFolder(`${dir}/a/b`, { mode: 0o1777, uid: 1, gid: 2 })).toBe(true);
  expect(statPath(`${dir}/a/b`)).toMatchObject({ mode: 0o41777, uid: 1, gid: 2 });
  expect(statPath(`${dir}/a`).mode & 0o7777).toBe(0o711);
  expect(makeFolder(`${dir}/a/b`, { mode: 0o700 })).toBe(false);
  expect(statPath(`${dir}/a/b`).mode & 0o7777).toBe(0o1777);
});
