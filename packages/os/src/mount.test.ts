import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { isErrorClass } from "@stevedore/base/errors";
import { assert, property, string } from "fast-check";
import { mountAll as mountOffLoop } from "./blocking.ts";
import {
  assumeLayersOneByOne,
  cloneMount,
  MNT,
  MOUNT_ATTR,
  MS,
  mountAll,
  mountRaw,
  overlayTakesLayersOneByOne,
  parseMountOptions,
  splitLayers,
  unmountAll,
  unmountRecursive,
  withTempMount,
} from "./mount.ts";
import { mountAt, mountHolding, parseMountInfo, readMountInfo } from "./mountinfo.ts";
import { statPath } from "./stat.ts";
import { canMapOverlayLayers, tryMappedOverlay } from "./userns.ts";

let dir = "";

beforeEach(() => {
  dir = mkdtempSync("/tmp/os-mount-");
  mountRaw("tmpfs", dir, { type: "tmpfs" });
});

afterEach(() => {
  unmountRecursive(dir, { flags: MNT.DETACH });
  rmSync(dir, { recursive: true });
});

test("parseMountInfo() undoes octal escapes and keeps optional fields", () => {
  const line =
    "36 35 98:0 /mnt1 /mnt\\0402\\134x rw,noatime master:1 shared:7 - ext3 /dev/ro\\043ot rw,errors=continue";
  expect(parseMountInfo(`${line}\n`)).toEqual([
    {
      id: 36,
      parent: 35,
      major: 98,
      minor: 0,
      root: "/mnt1",
      mountPoint: "/mnt 2\\x",
      options: ["rw", "noatime"],
      optional: ["master:1", "shared:7"],
      type: "ext3",
      source: "/dev/ro#ot",
      superOptions: "rw,errors=continue",
    },
  ]);
  expect(() => parseMountInfo("36 35 98:0 / / rw")).toThrow("malformed line");
});

test("parseMountInfo() gives back any mount point the kernel could escape", () => {
  const escape = (text: string): string =>
    text.replace(/[ \t\n\\#]/g, (char) => `\\${char.charCodeAt(0).toString(8).padStart(3, "0")}`);
  const name = string({ minLength: 1, maxLength: 40 }).filter((text) => !/[\0/\r]/.test(text));
  assert(
    property(name, name, (point, source) => {
      const [mount] = parseMountInfo(`1 2 3:4 / /${escape(point)} rw - t ${escape(source)} rw\n`);
      expect([mount?.mountPoint, mount?.source]).toEqual([`/${point}`, source]);
    }),
  );
});

test("a mount point with a space and a newline is found again", () => {
  const odd = `${dir}/a b\nc`;
  mkdirSync(odd);
  mountRaw("none", odd, { type: "tmpfs" });
  expect(mountAt(odd)?.type).toBe("tmpfs");
  expect(mountHolding(`${odd}/x`).mountPoint).toBe(odd);
  unmountAll(odd);
  expect(mountAt(odd)).toBeUndefined();
});

test("parseMountOptions() sorts words into flags, propagation and data", () => {
  const parsed = parseMountOptions([
    "rbind",
    "ro",
    "nosuid",
    "suid",
    "rslave",
    "X-containerd.x=1",
    "size=1m",
    "mode=700",
  ]);
  expect(parsed.flags).toBe(MS.BIND | MS.REC | MS.RDONLY);
  expect(parsed.propagation).toBe(MS.SLAVE | MS.REC);
  expect(parsed.data).toEqual(["size=1m", "mode=700"]);
  expect(parseMountOptions(["uidmap=0:1:2", "gidmap=0:1:2"]).idmap).toEqual({ uid: "0:1:2", gid: "0:1:2" });
  expect(() => parseMountOptions(["uidmap=0:1:2"])).toThrow("together");
  expect(parseMountOptions(["constructor"]).data).toEqual(["constructor"]);
});

test("a read-only bind is read-only and its flags are set", () => {
  mkdirSync(`${dir}/from`);
  mkdirSync(`${dir}/to`);
  writeFileSync(`${dir}/from/f`, "x");
  mountAll([{ type: "bind", source: `${dir}/from`, options: ["rbind", "ro", "nosuid", "nodev"] }], `${dir}/to`);
  expect(readFileSync(`${dir}/to/f`, "utf8")).toBe("x");
  expect(() => writeFileSync(`${dir}/to/f`, "y")).toThrow("EROFS");
  const options = new Set(mountAt(`${dir}/to`)?.options);
  expect(["ro", "nosuid", "nodev"].every((option) => options.has(option))).toBe(true);
});

test("steps with a target land inside the first, whatever its symlinks say", () => {
  mkdirSync(`${dir}/root`);
  mkdirSync(`${dir}/root/real`);
  symlinkSync("/real", `${dir}/root/link`);
  mountAll(
    [
      { type: "bind", source: `${dir}/root`, options: ["bind"] },
      { type: "tmpfs", source: "tmpfs", target: "link", options: ["size=1m"] },
    ],
    `${dir}/root`,
  );
  expect(mountAt(`${dir}/root/real`)?.type).toBe("tmpfs");
});

test("a failing step undoes those before it", () => {
  mkdirSync(`${dir}/t`);
  const steps = [
    { type: "tmpfs", source: "tmpfs", options: [] },
    { type: "nosuchfs", source: "x", options: [] },
  ];
  try {
    mountAll(steps, `${dir}/t`);
    expect.unreachable();
  } catch (error) {
    expect(String(error)).toContain(`mount ${dir}/t (nosuchfs): no such device`);
    expect(isErrorClass(error, "failed-precondition")).toBe(true);
  }
  expect(mountAt(`${dir}/t`)).toBeUndefined();
});

describe("overlay", () => {
  const layers = (count: number): string[] => {
    const made: string[] = [];
    for (let i = 0; i < count; i++) {
      const layer = `${dir}/snapshots-with-a-long-name/${i}/fs`;
      mkdirSync(layer, { recursive: true });
      writeFileSync(`${layer}/f${i}`, String(i));
      writeFileSync(`${layer}/same`, String(i));
      made.push(layer);
    }
    for (const name of ["u", "w", "m"]) mkdirSync(`${dir}/${name}`);
    return made;
  };
  const overlay = (lower: readonly string[]) => ({
    type: "overlay",
    source: "overlay",
    options: [`workdir=${dir}/w`, `upperdir=${dir}/u`, `lowerdir=${lower.join(":")}`, "index=off"],
  });

  for (const [way, setting, count] of [
    ["fsconfig lowerdir+", undefined, 127],
    ["fsconfig lowerdir+", undefined, 300],
    ["descriptors", false, 127],
  ] as const) {
    test(`${count} layers by ${way}`, () => {
      if (setting === undefined && !overlayTakesLayersOneByOne()) return;
      assumeLayersOneByOne(setting);
      try {
        mountAll([overlay(layers(count))], `${dir}/m`);
      } finally {
        assumeLayersOneByOne(undefined);
      }
      expect(readFileSync(`${dir}/m/same`, "utf8")).toBe("0");
      expect(readdirSync(`${dir}/m`).length).toBe(count + 1);
      writeFileSync(`${dir}/m/new`, "n");
      expect(existsSync(`${dir}/u/new`)).toBe(true);
      expect(mountAt(`${dir}/m`)?.type).toBe("overlay");
    });
  }

  test("what the kernel minded is in the message", () => {
    if (!overlayTakesLayersOneByOne()) return;
    const lower = layers(127);
    lower[3] = `${dir}/missing`;
    expect(() => mountAll([overlay(lower)], `${dir}/m`)).toThrow(/no such file or directory/);
  });

  test("splitLayers() minds escapes", () => {
    expect(splitLayers("/a:/b\\:c:/d\\\\e")).toEqual(["/a", "/b:c", "/d\\e"]);
  });
});

test("unmountAll() takes a stack away and minds nothing missing", () => {
  mkdirSync(`${dir}/s`);
  for (let i = 0; i < 3; i++) mountRaw("tmpfs", `${dir}/s`, { type: "tmpfs" });
  unmountAll(`${dir}/s`);
  expect(mountAt(`${dir}/s`)).toBeUndefined();
  unmountAll(`${dir}/s`);
  unmountAll(`${dir}/missing`);
});

test("unmountRecursive() goes deepest first", () => {
  mkdirSync(`${dir}/r`);
  mountRaw("tmpfs", `${dir}/r`, { type: "tmpfs" });
  mkdirSync(`${dir}/r/x/y`, { recursive: true });
  mountRaw("tmpfs", `${dir}/r/x/y`, { type: "tmpfs" });
  unmountRecursive(`${dir}/r`);
  expect(readMountInfo().filter((mount) => mount.mountPoint.startsWith(`${dir}/`))).toEqual([]);
});

test("withTempMount() cleans up after success and after failure", async () => {
  const steps = [{ type: "tmpfs", source: "tmpfs", options: ["size=1m"] }];
  const seen = await withTempMount(
    steps,
    (at) => {
      writeFileSync(`${at}/f`, "x");
      return at;
    },
    { root: dir },
  );
  expect(existsSync(seen)).toBe(false);
  await expect(withTempMount(steps, () => Promise.reject(new Error("no")), { root: dir })).rejects.toThrow("no");
  await Bun.sleep(1);
  expect(readdirSync(dir)).toEqual([]);
});

test("a cloned tree can be made read-only before it is attached", () => {
  mkdirSync(`${dir}/a/sub`, { recursive: true });
  mkdirSync(`${dir}/b`);
  mountRaw("tmpfs", `${dir}/a/sub`, { type: "tmpfs" });
  using tree = cloneMount(`${dir}/a`, { recursive: true });
  tree.setAttributes({ set: MOUNT_ATTR.RDONLY | MOUNT_ATTR.NOSUID, recursive: true });
  tree.attach(`${dir}/b`);
  expect(() => writeFileSync(`${dir}/b/sub/f`, "x")).toThrow("EROFS");
  writeFileSync(`${dir}/a/sub/f`, "x");
  expect(existsSync(`${dir}/b/sub/f`)).toBe(true);
});

test("a loop option mounts an image file, and its device goes with it", async () => {
  const { runCommand } = await import("./spawn.ts");
  writeFileSync(`${dir}/image`, new Uint8Array(4 << 20));
  const made = await runCommand(["mkfs.ext4", "-q", `${dir}/image`], {
    env: { PATH: "/usr/sbin:/sbin" },
    searchPath: "/usr/sbin:/sbin",
  });
  expect(made.code).toBe(0);
  mkdirSync(`${dir}/m`);
  mountAll([{ type: "ext4", source: `${dir}/image`, options: ["loop"] }], `${dir}/m`);
  const device = mountAt(`${dir}/m`)?.source ?? "";
  expect(device).toMatch(/^\/dev\/loop\d+$/);
  writeFileSync(`${dir}/m/f`, "x");
  unmountAll(`${dir}/m`);
  expect(existsSync(`/sys/block/${device.slice(5)}/loop/backing_file`)).toBe(false);
});

describe("id mappings", () => {
  const options = ["uidmap=0:100000:65536", "gidmap=0:200000:65536"];

  test("a bind shows owners through them", async () => {
    mkdirSync(`${dir}/from`);
    mkdirSync(`${dir}/to`);
    writeFileSync(`${dir}/from/f`, "x");
    await mountOffLoop([{ type: "bind", source: `${dir}/from`, options: ["rbind", "ro", ...options] }], `${dir}/to`);
    expect(statPath(`${dir}/to/f`)).toMatchObject({ uid: 100_000, gid: 200_000 });
    expect(() => writeFileSync(`${dir}/to/f`, "y")).toThrow("EROFS");
  });

  test("an overlay shows its lower layers through them, and nothing temporary stays", async () => {
    for (const name of ["l1", "l2", "u", "w", "m"]) mkdirSync(`${dir}/${name}`);
    writeFileSync(`${dir}/l1/one`, "1");
    writeFileSync(`${dir}/l2/two`, "2");
    const mounts = readMountInfo().length;
    const step = {
      type: "overlay",
      source: "overlay",
      options: [...options, `workdir=${dir}/w`, `upperdir=${dir}/u`, `lowerdir=${dir}/l1:${dir}/l2`],
    };
    await mountOffLoop([step], `${dir}/m`);
    expect(statPath(`${dir}/m/one`)).toMatchObject({ uid: 100_000, gid: 200_000 });
    expect(statPath(`${dir}/m/two`)).toMatchObject({ uid: 100_000, gid: 200_000 });
    expect(readMountInfo().length).toBe(mounts + 1);
    expect(readdirSync("/tmp").filter((name) => name.startsWith("ovl-idmapped"))).toEqual([]);
  });

  test("whether they are possible is known, and the same when tried out", async () => {
    expect(await canMapOverlayLayers(dir)).toBe(await tryMappedOverlay(dir));
    // procfs has no id mappings.
    expect(await tryMappedOverlay("/proc/self")).toBe(false);
    expect(readdirSync(dir)).toEqual([]);
  });

  test("malformed and missing ones are refused", async () => {
    const step = { type: "bind", source: dir, options: ["bind", "uidmap=0:x:1", "gidmap=0:0:1"] };
    await expect(mountOffLoop([step], dir)).rejects.toThrow("want container:host:size");
    expect(() => mountAll([{ ...step, options: ["bind", ...options] }], dir)).toThrow("no user namespace");
  });
});
