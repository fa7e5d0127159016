import { describe, expect, test } from "bun:test";
import { lstatSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { backgroundContext } from "@stevedore/base";
import { MemorySnapshotRecords } from "@stevedore/core/snapshot-records-memory";
import { type OpenedSnapshotter, snapshotterSuite } from "@stevedore/core/snapshots-suite";
import { getXattrEntryAt, openEntry, setXattrEntryAt } from "@stevedore/os/at-calls";
import { AT, closeQuietly, O } from "@stevedore/os/fd";
import { mountRaw, unmount, withTempMount } from "@stevedore/os/mount";
import { createNativeSnapshotter } from "./impl.ts";

const context = backgroundContext();

async function open(): Promise<OpenedSnapshotter & { readonly root: string }> {
  const root = mkdtempSync(`${tmpdir()}/native-`);
  mountRaw("tmpfs", root, { type: "tmpfs" });
  const snapshotter = await createNativeSnapshotter({
    root: `${root}/snapshotter`,
    records: new MemorySnapshotRecords(),
  });
  return {
    root,
    snapshotter,
    mounted: (mounts, use) => withTempMount(mounts, use, { root: tmpdir() }),
    close: () => {
      unmount(root);
      rmSync(root, { recursive: true });
      return Promise.resolve();
    },
  };
}

snapshotterSuite("native", { rebase: false, deepest: 20 }, open);

describe("native snapshotter (D06)", () => {
  test("a copy keeps owners, modes, times, links, holes, devices and attributes", async () => {
    const { snapshotter, root, close } = await open();
    try {
      const [mount] = await snapshotter.prepare(context, "a", { parent: "" });
      expect(mount).toEqual({
        type: "bind",
        source: `${root}/snapshotter/snapshots/1`,
        target: "",
        options: ["rbind", "rw"],
      });
      const script = `set -e; umask 022; mkdir d; echo hello > d/f; ln d/f g; ln -s d/f s; mkfifo p; mknod c c 1 3
        chmod 4751 d/f; chown 11:12 d; chown -h 13:14 s; truncate -s 5M holes; echo x >> holes
        touch -d @1000000000.123456789 d/f d; chmod 2770 d; touch "$(printf 'n\\377')"`;
      const made = Bun.spawnSync(["bash", "-c", script], { cwd: mount?.source ?? "" });
      expect(made.exitCode).toBe(0);
      const dir = openEntry(AT.FDCWD, mount?.source ?? "", O.RDONLY | O.DIRECTORY);
      setXattrEntryAt(dir, "g", "trusted.k", new Uint8Array([1, 2]));
      closeQuietly(dir);
      await snapshotter.commit(context, "one", { key: "a" });
      await snapshotter.prepare(context, "b", { parent: "one" });
      const copy = `${root}/snapshotter/snapshots/2`;
      const list = (path: string): string => {
        const found = Bun.spawnSync(["find", ".", "-printf", "%P %y %m %U:%G %s %b %T@ %n %l\\n"], { cwd: path });
        return found.stdout
          .toString("latin1")
          .split("\n")
          .filter((line) => !line.startsWith(" d")) // the root's own link count and size
          .toSorted()
          .join("\n");
      };
      expect(list(copy)).toBe(list(mount?.source ?? ""));
      expect(readFileSync(`${copy}/g`, "utf8")).toBe("hello\n");
      expect(statSync(`${copy}/g`).ino).toBe(statSync(`${copy}/d/f`).ino);
      expect(statSync(`${copy}/g`).ino).not.toBe(statSync(`${mount?.source}/g`).ino);
      expect(lstatSync(`${copy}/c`).rdev).toBe(lstatSync(`${mount?.source}/c`).rdev);
      const copied = openEntry(AT.FDCWD, copy, O.RDONLY | O.DIRECTORY);
      expect(getXattrEntryAt(copied, "d/f")).toEqual([["trusted.k", new Uint8Array([1, 2])]]);
      closeQuietly(copied);
      await snapshotter.remove(context, "b");
      expect(readdirSync(`${root}/snapshotter/snapshots`)).toEqual(["1"]);
    } finally {
      await close();
    }
  });
});
