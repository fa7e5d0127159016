import { describe, expect, test } from "bun:test";
import { chownSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { backgroundContext } from "@stevedore/base";
import { MemorySnapshotRecords } from "@stevedore/core/snapshot-records-memory";
import { type OpenedSnapshotter, snapshotterSuite } from "@stevedore/core/snapshots-suite";
import { mountRaw, unmount, withTempMount } from "@stevedore/os/mount";
import { mountsAtOrBelow } from "@stevedore/os/mountinfo";
import { createOverlaySnapshotter, type OverlayOptions } from "./impl.ts";
import { overlayCapabilities } from "./plugin.ts";

const context = backgroundContext();

/** A snapshotter on a tmpfs of its own. */
async function open(options: Partial<OverlayOptions> = {}): Promise<OpenedSnapshotter & { readonly root: string }> {
  const root = mkdtempSync(`${tmpdir()}/overlay-`);
  mountRaw("tmpfs", root, { type: "tmpfs" });
  const snapshotter = await createOverlaySnapshotter({
    root: `${root}/snapshotter`,
    records: new MemorySnapshotRecords(),
    ...options,
  });
  return {
    root,
    snapshotter,
    mounted: (mounts, use) => withTempMount(mounts, use, { root: tmpdir() }),
    close: async () => {
      await snapshotter.cleanup(context);
      await snapshotter.cleanup(context); // waits for the deletions that the first one left to the background
      expect(mountsAtOrBelow(root).map((mount) => mount.mountPoint)).toEqual([root]);
      unmount(root);
      rmSync(root, { recursive: true });
    },
  };
}

snapshotterSuite("overlayfs", { rebase: true, deepest: 127 }, open);

describe("overlayfs snapshotter (D07)", () => {
  test("folders, modes and mounts are containerd's", async () => {
    const { snapshotter, root, close } = await open({ mountOptions: ["volatile"] });
    try {
      const folder = `${root}/snapshotter/snapshots`;
      expect(await snapshotter.prepare(context, "a", { parent: "" })).toEqual([
        { type: "bind", source: `${folder}/1/fs`, target: "", options: ["rw", "rbind"] },
      ]);
      const mode = (path: string): string => (statSync(path).mode & 0o7777).toString(8);
      expect([`${root}/snapshotter`, folder, `${folder}/1`, `${folder}/1/fs`, `${folder}/1/work`].map(mode)).toEqual([
        "700",
        "700",
        "700",
        "755",
        "711",
      ]);
      await snapshotter.commit(context, "one", { key: "a" });
      const above = await snapshotter.prepare(context, "b", { parent: "one" });
      expect(above).toEqual([
        {
          type: "overlay",
          source: "overlay",
          target: "",
          options: [
            `workdir=${folder}/2/work`,
            `upperdir=${folder}/2/fs`,
            `lowerdir=${folder}/1/fs`,
            "volatile",
            "index=off",
          ],
        },
      ]);
      await snapshotter.commit(context, "two", { key: "b" });
      expect(await snapshotter.view(context, "v1", { parent: "one" })).toEqual([
        { type: "bind", source: `${folder}/1/fs`, target: "", options: ["ro", "rbind"] },
      ]);
      expect(await snapshotter.view(context, "v2", { parent: "two" })).toEqual([
        {
          type: "overlay",
          source: "overlay",
          target: "",
          options: [`lowerdir=${folder}/2/fs:${folder}/1/fs`, "volatile", "index=off"],
        },
      ]);
      expect(readdirSync(`${folder}/3`)).toEqual(["fs"]);
      expect(await snapshotter.view(context, "v0", { parent: "" })).toEqual([
        { type: "bind", source: `${folder}/5/fs`, target: "", options: ["ro", "rbind"] },
      ]);
    } finally {
      await close();
    }
  });

  test("mapping labels give the owner of the new root and the options of the mount", async () => {
    const { snapshotter, root, close } = await open();
    try {
      const labels = {
        "containerd.io/snapshot/uidmapping": "0:100000:65536",
        "containerd.io/snapshot/gidmapping": "0:200000:65536",
      };
      const [mount] = await snapshotter.prepare(context, "a", { parent: "", labels });
      expect(mount?.options).toEqual(["uidmap=0:100000:65536", "gidmap=0:200000:65536", "rw", "rbind"]);
      const { uid, gid } = statSync(`${root}/snapshotter/snapshots/1/fs`);
      expect([uid, gid]).toEqual([100_000, 200_000]);
      const half = { "containerd.io/snapshot/uidmapping": "0:1:1" };
      await expect(snapshotter.prepare(context, "b", { parent: "", labels: half })).rejects.toThrow(
        "failed to unmarshal snapshot ID mapped labels",
      );
      expect(readdirSync(`${root}/snapshotter/snapshots`)).toEqual(["1"]);
    } finally {
      await close();
    }
  });

  test("upperdir_label tells where the changes lie", async () => {
    const { snapshotter, root, close } = await open({ upperdirLabel: true });
    try {
      await snapshotter.prepare(context, "a", { parent: "", labels: { x: "1" } });
      const upper = `${root}/snapshotter/snapshots/1/fs`;
      const labels = { x: "1", "containerd.io/snapshot/overlay.upperdir": upper };
      expect((await snapshotter.stat(context, "a")).labels).toEqual(labels);
      for await (const info of snapshotter.walk(context, [])) expect(info.labels).toEqual(labels);
      const updated = await snapshotter.update(context, { name: "a", labels: {} }, []);
      expect(updated.labels).toEqual({ "containerd.io/snapshot/overlay.upperdir": upper });
    } finally {
      await close();
    }
  });

  test("sync_remove frees before it returns; cleanup removes what no record has and nothing else", async () => {
    const { snapshotter, root, close } = await open({ syncRemove: true });
    try {
      const folder = `${root}/snapshotter/snapshots`;
      await snapshotter.prepare(context, "a", { parent: "" });
      await snapshotter.prepare(context, "b", { parent: "" });
      writeFileSync(`${folder}/1/fs/f`, "x");
      await snapshotter.remove(context, "a");
      expect(readdirSync(folder)).toEqual(["2"]);
      for (const name of ["99", "new-123", "rm-7"]) mkdirSync(`${folder}/${name}/fs/deep`, { recursive: true });
      await snapshotter.cleanup(context);
      // A second one waits for what the first left to the background.
      await snapshotter.cleanup(context);
      expect(readdirSync(folder)).toEqual(["2"]);
    } finally {
      await close();
    }
  });

  test("a folder with something mounted in it is not deleted in the attempt that detaches it", async () => {
    const { snapshotter, root, close } = await open({ syncRemove: true });
    const folder = `${root}/snapshotter/snapshots`;
    const volume = mkdtempSync(`${tmpdir()}/volume-`);
    try {
      writeFileSync(`${volume}/precious`, "x");
      await snapshotter.prepare(context, "a", { parent: "" });
      mkdirSync(`${folder}/1/fs/data`);
      mountRaw(volume, `${folder}/1/fs/data`, { flags: 4096 });
      await snapshotter.remove(context, "a");
      expect(readdirSync(volume)).toEqual(["precious"]);
      await snapshotter.cleanup(context);
      await snapshotter.cleanup(context);
      expect(readdirSync(volume)).toEqual(["precious"]);
      expect(readdirSync(folder)).toEqual([]);
    } finally {
      await close();
      rmSync(volume, { recursive: true });
    }
  });

  test("what a crash left is removed at the next start, while new snapshots take its ids", async () => {
    const { snapshotter, root, close } = await open();
    try {
      const folder = `${root}/snapshotter/snapshots`;
      await snapshotter.cleanup(context); // its own at the start is over then
      for (let i = 1; i <= 40; i++) mkdirSync(`${folder}/${i}/fs/old`, { recursive: true });
      const again = await createOverlaySnapshotter({
        root: `${root}/snapshotter`,
        records: new MemorySnapshotRecords(),
      });
      await Promise.all(Array.from({ length: 20 }, (_, i) => again.prepare(context, `k${i}`, { parent: "" })));
      // What one cleanup cannot delete is for the next: its own at the start may be at it still.
      for (let i = 0; i < 10 && readdirSync(folder).length > 20; i++) await again.cleanup(context);
      expect(
        readdirSync(folder)
          .map(Number)
          .toSorted((a, b) => a - b),
      ).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
      for (let i = 1; i <= 20; i++) expect(readdirSync(`${folder}/${i}/fs`)).toEqual([]);
    } finally {
      await close();
    }
  });

  test("a folder left by a crash under an id that is given again is replaced", async () => {
    const { snapshotter, root, close } = await open();
    try {
      mkdirSync(`${root}/snapshotter/snapshots/1/fs/old`, { recursive: true });
      chownSync(`${root}/snapshotter/snapshots/1/fs`, 5, 5);
      await snapshotter.prepare(context, "a", { parent: "" });
      expect(readdirSync(`${root}/snapshotter/snapshots/1/fs`)).toEqual([]);
    } finally {
      await close();
    }
  });

  test("capabilities are promises", () => {
    expect(overlayCapabilities({ slowChown: false, idmappedMounts: true })).toEqual([
      "remap-ids",
      "only-remap-ids",
      "rebase",
    ]);
    expect(overlayCapabilities({ slowChown: true, idmappedMounts: false })).toEqual(["rebase"]);
  });
});
