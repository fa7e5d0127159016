import { afterAll, describe, expect, test } from "bun:test";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { errorClassOf } from "@stevedore/base/errors";
import { TarParser } from "@stevedore/oci/tar/parser";
import { encodeTarHeader, TAR_END, type TarEntryInit, tarPadding } from "@stevedore/oci/tar/writer";
import { copyTree } from "@stevedore/os/copy-tree";
import { mountRaw, unmount, withTempMount } from "@stevedore/os/mount";
import { removeTree } from "@stevedore/os/path";
import { carryOut } from "@stevedore/os/test-steps";
import { describeTree } from "@stevedore/os/test-tree";
import * as fc from "fast-check";
import { readOnly } from "./compare.ts";
import { diff, steps, unpack } from "./test-support.ts";
import { cleanPath } from "./unpack.ts";

// The unpacker and the double walk in this process, on trees of a tmpfs; the worker as a process is tested by its users.

const base = mkdtempSync(`${tmpdir()}/worker-`);
mountRaw("tmpfs", base, { type: "tmpfs" });
afterAll(() => {
  process.chdir("/"); // attributes of links are set from inside their folder
  unmount(base);
  rmSync(base, { recursive: true });
});
let made = 0;

function folder(): string {
  const path = `${base}/${++made}`;
  mkdirSync(path);
  return path;
}

type Line = readonly [TarEntryInit, string?];

function archiveOf(...entries: readonly Line[]): Buffer {
  const parts: Uint8Array[] = [];
  for (const [entry, text = ""] of entries) {
    const bytes = Buffer.from(text);
    parts.push(encodeTarHeader({ ...entry, size: bytes.length }), bytes, tarPadding(bytes.length));
  }
  return Buffer.concat([...parts, TAR_END]);
}

const file = (name: string, text = "x"): Line => [{ type: "file", name, mode: 0o644 }, text];

function errorOf(run: () => unknown): { class: string; message: string } {
  try {
    run();
    return { class: "none", message: "" };
  } catch (error) {
    return { class: errorClassOf(error), message: error instanceof Error ? error.message : "" };
  }
}

const RUNS = Number(process.env["PROPERTY_RUNS"] ?? 150);

describe("apply(compare(x)) = x", () => {
  test("onto plain folders", () => {
    fc.assert(
      fc.property(steps, steps, (before, changes) => {
        const [lower, upper, target] = [folder(), folder(), folder()];
        carryOut(lower, before);
        copyTree(lower, upper);
        carryOut(upper, changes);
        copyTree(lower, target);
        unpack(diff(lower, upper), target);
        expect(describeTree(target)).toEqual(describeTree(upper));
        for (const path of [lower, upper, target]) removeTree(path);
      }),
      { numRuns: RUNS },
    );
  }, 120_000);

  test("onto an overlay's upper folder, and a folder taken from nothing", async () => {
    await fc.assert(
      fc.asyncProperty(steps, steps, async (before, changes) => {
        const [lower, upper, target, whole] = [folder(), folder(), folder(), folder()];
        carryOut(lower, before);
        copyTree(lower, upper);
        carryOut(upper, changes);
        unpack(diff(lower, upper), target, { overlay: true, lowers: [lower] });
        const options = [`lowerdir=${target}:${lower}`, "index=off"];
        const merged = await withTempMount([{ type: "overlay", source: "overlay", options }], (dir) =>
          withoutGroups(describeTree(dir)),
        );
        expect(merged).toEqual(withoutGroups(describeTree(upper)));
        unpack(diff(undefined, upper), whole);
        expect(describeTree(whole)).toEqual(describeTree(upper));
        for (const path of [lower, upper, target, whole]) removeTree(path);
      }),
      { numRuns: Math.ceil(RUNS / 3) },
    );
  }, 120_000);

  test("GNU tar's archive of a tree unpacks to the tree", () => {
    fc.assert(
      fc.property(steps, fc.constantFrom("gnu", "posix"), (before, format) => {
        const [tree, target] = [folder(), folder()];
        // GNU tar writes each name of a FIFO or device as one of its own.
        carryOut(
          tree,
          before.filter((item) => item.do !== "fifo" && item.do !== "char"),
        );
        const options = ["-C", tree, `--format=${format}`, "-S", "--numeric-owner", "-cf", "-", "."];
        const { stdout } = Bun.spawnSync(["tar", ...options]);
        unpack(stdout, target);
        const plain = (lines: readonly string[]): string[] => lines.map((line) => line.replace(/ user\.test=\S+/, ""));
        expect(plain(describeTree(target))).toEqual(plain(describeTree(tree)));
        for (const path of [tree, target]) removeTree(path);
      }),
      { numRuns: Math.ceil(RUNS / 5) },
    );
  }, 120_000);
});

/** A hard link of which one name was copied up is no link any more on overlayfs without index. */
function withoutGroups(lines: readonly string[]): string[] {
  return lines.filter((line) => !line.startsWith("linked:"));
}

describe("hostile archives stay inside (CVE-2021-32760, CVE-2025-47290)", () => {
  /** A target beside a folder that must not change. */
  const guarded = (run: (target: string, outside: string) => void): void => {
    const parent = folder();
    const outside = `${parent}/outside`;
    const target = `${parent}/a/b/target`;
    mkdirSync(outside);
    mkdirSync(target, { recursive: true });
    writeFileSync(`${outside}/secret`, "secret", { mode: 0o600 });
    const before = describeTree(outside, { folderTimes: true });
    run(target, outside);
    expect(describeTree(outside, { folderTimes: true })).toEqual(before);
    expect(readdirSync(parent).toSorted()).toEqual(["a", "outside"]);
    expect(readdirSync(`${parent}/a`)).toEqual(["b"]);
    expect(readdirSync(`${parent}/a/b`)).toEqual(["target"]);
    removeTree(parent);
  };

  test("absolute names and .. land inside", () =>
    guarded((target) => {
      unpack(archiveOf(file("/abs"), file("../../../up"), file("a/../../b/../c"), file("./d//e/./f")), target);
      expect(readdirSync(target).toSorted()).toEqual(["abs", "c", "d", "up"]);
      expect(readFileSync(`${target}/d/e/f`, "utf8")).toBe("x");
    }));

  test("symlinks are followed inside the root only, and never as the last part", () =>
    guarded((target, outside) => {
      unpack(
        archiveOf(
          [{ type: "symlink", name: "out", linkName: outside }],
          file("out/planted"),
          [{ type: "symlink", name: "up", linkName: "../../../../../../../etc" }],
          file("up/passwd"),
          [{ type: "symlink", name: "secret", linkName: `${outside}/secret` }],
          file("secret", "mine"),
          [{ type: "symlink", name: "loop", linkName: "loop" }],
        ),
        target,
      );
      expect(readFileSync(`${target}${outside}/planted`, "utf8")).toBe("x");
      expect(readFileSync(`${target}/etc/passwd`, "utf8")).toBe("x");
      expect(lstatSync(`${target}/secret`).isFile()).toBe(true);
      expect(errorOf(() => unpack(archiveOf(file("loop/x")), target)).message).toContain("too many levels");
    }));

  test("a chmod, chown or time does not go through a link", () =>
    guarded((target, outside) => {
      unpack(
        archiveOf(
          [{ type: "symlink", name: "s", linkName: `${outside}/secret`, mode: 0o777, uid: 7 }],
          [{ type: "link", name: "h", linkName: "s", mode: 0o777, uid: 8 }],
          [{ type: "directory", name: "s2", mode: 0o755 }],
          [{ type: "symlink", name: "s2", linkName: outside }],
          [{ type: "directory", name: "s2", mode: 0o777 }],
        ),
        target,
      );
      expect(lstatSync(`${target}/h`).isSymbolicLink()).toBe(true);
      expect(lstatSync(`${target}/s2`).isDirectory()).toBe(true);
    }));

  test("hard links to what is outside are refused", () =>
    guarded((target, outside) => {
      symlinkSync(outside, `${target}/out`);
      for (const linkName of [`${outside}/secret`, "../../../outside/secret", "out/secret"]) {
        const { class: errorClass, message } = errorOf(() =>
          unpack(archiveOf([{ type: "link", name: "h", linkName }]), target),
        );
        expect(errorClass).toBe("invalid-argument");
        expect(message).toContain("no such file or directory in this layer");
      }
      expect(existsSync(`${target}/h`)).toBe(false);
    }));

  test("whiteouts delete nothing outside", () =>
    guarded((target, outside) => {
      symlinkSync(outside, `${target}/out`);
      mkdirSync(`${target}${outside}`, { recursive: true });
      writeFileSync(`${target}${outside}/victim`, "");
      unpack(archiveOf(file("out/.wh.victim", ""), file("out/.wh.secret", ""), file("../../.wh.outside", "")), target);
      expect(readdirSync(`${target}${outside}`)).toEqual([]);
      unpack(archiveOf(file("out/.wh..wh..opq", "")), target);
      for (const name of [".wh.", ".wh..", "x/.wh..."]) {
        expect(errorOf(() => unpack(archiveOf(file(name, "")), target)).message).toContain("invalid whiteout name");
      }
      unpack(archiveOf(file(".wh.out", "")), target);
      expect(existsSync(`${outside}/secret`)).toBe(true);
    }));

  test("devices are made as said, and numbers that do not fit are refused", () =>
    guarded((target) => {
      unpack(archiveOf([{ type: "char", name: "null", mode: 0o666, devMajor: 1, devMinor: 3 }]), target);
      expect(statSync(`${target}/null`).rdev).toBe(0x103);
      const header = Buffer.from(encodeTarHeader({ type: "block", name: "x" }));
      header.set([0x80, 0, 0, 1, 0, 0, 0, 0], 329);
      header.fill(0x20, 148, 156);
      const sum = header.reduce((total, byte) => total + byte, 0);
      header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
      expect(errorOf(() => unpack(Buffer.concat([header, TAR_END]), target)).message).toBe(
        'device number 4294967296:0 for "x" out of range: invalid archive',
      );
    }));

  test("attributes of the trusted namespace and overlayfs's own are left out", () =>
    guarded((target) => {
      const xattrs = new Map([
        ["trusted.overlay.opaque", Buffer.from("y")],
        ["trusted.overlay.redirect", Buffer.from("/etc")],
        ["user.kept", Buffer.from("1")],
      ]);
      const { warnings } = unpack(archiveOf([{ type: "directory", name: "d", mode: 0o755, xattrs }]), target);
      expect(describeTree(target, { trusted: true })).toEqual(["/d 40755 0:0 user.kept=31"]);
      expect(warnings).toHaveLength(2);
    }));

  test("nobody who swaps folders for links meanwhile gets anything out", async () => {
    const parent = folder();
    const outside = `${parent}/outside`;
    const target = `${parent}/target`;
    mkdirSync(outside);
    mkdirSync(`${target}/real`, { recursive: true });
    writeFileSync(`${outside}/f0`, "secret");
    const script = `
      import { renameSync, symlinkSync, mkdirSync } from "node:fs";
      process.chdir(${JSON.stringify(target)});
      symlinkSync(${JSON.stringify(outside)}, "link");
      process.stdout.write("ready");
      for (;;) {
        try { renameSync("real", "tmp"); renameSync("link", "real"); renameSync("real", "link"); renameSync("tmp", "real"); } catch {}
        try { mkdirSync("real"); } catch {}
      }`;
    const swapper = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe" });
    try {
      await swapper.stdout.getReader().read();
      const entries = Array.from({ length: 200 }, (_, i): Line[] => [
        file(`real/f${i % 7}`, "planted"),
        file(`real/.wh.f${i % 7}`, ""),
        [{ type: "directory", name: `real/d${i % 3}`, mode: 0o777 }],
        [{ type: "link", name: `copy${i % 5}`, linkName: "real/f0" }],
      ]).flat();
      const archive = archiveOf(...entries);
      for (let round = 0; round < 40; round++) errorOf(() => unpack(archive, target));
    } finally {
      swapper.kill();
      await swapper.exited;
    }
    expect(describeTree(outside).map((line) => line.split(" ").slice(0, 1).join())).toEqual(["/f0"]);
    expect(readFileSync(`${outside}/f0`, "utf8")).toBe("secret");
    expect(statSync(`${outside}/f0`).nlink).toBe(1);
    removeTree(parent);
  }, 60_000);
});

describe("layers over layers", () => {
  test("a whiteout in its own layer hides only what is below (image-spec layer.md)", () => {
    const entries = [
      file("kept"),
      file(".wh.kept", ""),
      file("d/new"),
      file(".wh.d", ""),
      file("e/.wh..wh..opq", ""),
      file("e/new"),
    ];
    const plain = folder();
    mkdirSync(`${plain}/d`);
    mkdirSync(`${plain}/e`);
    writeFileSync(`${plain}/d/old`, "");
    writeFileSync(`${plain}/e/old`, "");
    const lower = folder();
    copyTree(plain, lower);
    unpack(archiveOf(...entries), plain);
    expect(["", "/d", "/e"].map((at) => readdirSync(`${plain}${at}`).toSorted())).toEqual([
      ["d", "e", "kept"],
      ["new"],
      ["new"],
    ]);
    const upper = folder();
    unpack(archiveOf(...entries), upper, { overlay: true, lowers: [lower] });
    expect(describeTree(upper, { trusted: true, times: false }).filter((line) => line.includes("opaque"))).toEqual([
      "/d 40755 0:0 trusted.overlay.opaque=79",
      "/e 40755 0:0 trusted.overlay.opaque=79",
    ]);
  });

  test("a folder after its own whiteout shows nothing of the lower one", () => {
    const upper = folder();
    unpack(archiveOf(file(".wh.d", ""), [{ type: "directory", name: "d", mode: 0o755 }], file(".wh.x", "")), upper, {
      overlay: true,
    });
    expect(describeTree(upper, { trusted: true, times: false })).toEqual([
      "/d 40755 0:0 trusted.overlay.opaque=79",
      "/x 20000 0:0 0:0",
    ]);
  });

  test("folders no entry names take what the layer below has, or carry the mark", () => {
    const lower = folder();
    carryOut(lower, [
      { do: "folder", path: "a/b", mode: 0o1777 },
      { do: "owner", path: "a/b", id: 42 },
      { do: "attribute", path: "a/b", value: 7 },
    ]);
    const known = folder();
    const { implied } = unpack(archiveOf(file("a/b/c/f")), known, { overlay: true, lowers: [lower] });
    expect(implied).toEqual(["a", "a/b", "a/b/c"]);
    expect(describeTree(known, { times: false }).slice(0, 3)).toEqual([
      "/a 40755 0:0",
      "/a/b 41777 42:43 user.test=0700ff",
      "/a/b/c 40755 0:0",
    ]);
    const unknown = folder();
    unpack(archiveOf(file("a/b/f"), [{ type: "directory", name: "a", mode: 0o700 }]), unknown, {
      overlay: true,
      markImplied: true,
    });
    expect(describeTree(unknown, { times: false, trusted: true })).toEqual([
      "/a 40700 0:0",
      "/a/b 40755 0:0 trusted.stevedore.implied=79",
      "/a/b/f 100644 0:0 1 11f6ad8ec5",
    ]);
  });

  test("a hard link to a file of a lower layer copies it up", () => {
    const lower = folder();
    carryOut(lower, [
      { do: "file", path: "f", size: 100, fill: 1, mode: 0o4755 },
      { do: "owner", path: "f", id: 9 },
    ]);
    const upper = folder();
    unpack(archiveOf([{ type: "link", name: "g", linkName: "f", mode: 0o755, uid: 9, gid: 10 }]), upper, {
      overlay: true,
      lowers: [lower],
    });
    expect(readdirSync(upper).toSorted()).toEqual(["f", "g"]);
    expect(statSync(`${upper}/f`).ino).toBe(statSync(`${upper}/g`).ino);
    expect(readFileSync(`${upper}/g`).length).toBe(100);
  });

  test("a folder an entry names has the attributes of the entry, as on overlayfs", () => {
    const target = folder();
    carryOut(target, [
      { do: "folder", path: "d", mode: 0o755 },
      { do: "attribute", path: "d", value: 7 },
      { do: "file", path: "d/kept", size: 1, fill: 1, mode: 0o644 },
    ]);
    unpack(archiveOf([{ type: "directory", name: "d", mode: 0o700 }]), target);
    expect(describeTree(target, { times: false })[0]).toBe("/d 40700 0:0");
    expect(readdirSync(`${target}/d`)).toEqual(["kept"]);
  });

  test("what replaces what: files, folders and links under one name", () => {
    const target = folder();
    unpack(
      archiveOf(
        file("x/y/z"),
        file("x"),
        file("d/keep"),
        [{ type: "directory", name: "d", mode: 0o700 }],
        [{ type: "symlink", name: "s", linkName: "d" }],
        file("s/through"),
        [{ type: "directory", name: "s", mode: 0o755 }],
        file("s/own"),
      ),
      target,
    );
    expect(describeTree(target, { times: false }).map((line) => line.split(" ").slice(0, 2).join(" "))).toEqual([
      "/d 40700",
      "/d/keep 100644",
      "/d/through 100644",
      "/s 40755",
      "/s/own 100644",
      "/x 100644",
    ]);
  });
});

describe("compare", () => {
  test("the same trees give the same bytes; times are cut to the epoch that is asked for", () => {
    const tree = folder();
    carryOut(tree, [
      { do: "file", path: "a/f", size: 10, fill: 1, mode: 0o644 },
      { do: "link", path: "b", to: "a/f" },
    ]);
    const one = diff(undefined, tree, 5);
    expect(one.equals(diff(undefined, tree, 5))).toBe(true);
    const target = folder();
    unpack(one, target);
    const timed = describeTree(target).filter((line) => line.includes("@"));
    expect(timed.map((line) => line.replace(/^(\S+) .* /, "$1 "))).toEqual(["/a/f @5", "/b @5"]);
  });

  test("an unchanged tree has no changes; a name of a changed inode brings its others along", () => {
    const lower = folder();
    carryOut(lower, [
      { do: "file", path: "a/f", size: 10, fill: 1, mode: 0o644 },
      { do: "link", path: "a/g", to: "a/f" },
      { do: "file", path: "other", size: 1, fill: 1, mode: 0o644 },
    ]);
    const upper = folder();
    copyTree(lower, upper);
    expect(diff(lower, upper).equals(Buffer.from(TAR_END))).toBe(true);
    carryOut(upper, [{ do: "link", path: "z", to: "a/f" }]);
    const names: string[] = [];
    const parser = new TarParser({
      entry: (header) => names.push(`${header.type} ${header.name} ${header.linkName}`.trim()),
      data: () => undefined,
      finish: () => undefined,
    });
    parser.push(diff(lower, upper));
    expect(names).toEqual(["directory a/", "file a/f", "link a/g a/f", "link z a/f"]);
  });

  test("an upper mount is made read-only without its work folder", () => {
    const overlay = {
      type: "overlay",
      source: "overlay",
      options: ["workdir=/w", "upperdir=/u", "lowerdir=/l2:/l1", "index=off"],
    };
    expect(readOnly(overlay).options).toEqual(["lowerdir=/u:/l2:/l1", "index=off"]);
    expect(readOnly({ type: "bind", source: "/s", options: ["rw", "rbind"] }).options).toEqual(["rbind", "ro"]);
  });
});

test("cleanPath is Go's filepath.Clean under a root", () => {
  const cases: Readonly<Record<string, string>> = {
    "": "",
    ".": "",
    "./": "",
    "/": "",
    a: "a",
    "./a/": "a",
    "a//b": "a/b",
    "a/./b/..": "a",
    "..": "",
    "../../a": "a",
    "a/../../b": "b",
    "...": "...",
    "a/..b/c..": "a/..b/c..",
    ".a": ".a",
  };
  for (const [given, wanted] of Object.entries(cases)) expect(cleanPath(given)).toBe(wanted);
});
