// Containers in user namespaces whose image is seen through an id mapping of its mounts: no file is copied or given away.
import { expect } from "bun:test";
import { chmod, mkdir, readFile, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { row, type Stage } from "../harness/row.ts";
import { tar } from "../harness/tar.ts";

const SOURCE = "containerd 2.3.4: plugins.jsonl, docs/user-namespaces";
const MAPS = ["--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536"];

/** vfs_cap_data of revision 2 with cap_net_raw permitted and effective, from linux/capability.h. */
const NET_RAW = `\u0001\0\0\u0002\0\u0020${"\0".repeat(14)}`;

/** An image with a file of user 1000 and one with a file capability, above the busybox layer. */
async function imageOf(t: Stage): Promise<string> {
  const busybox = await readFile("/bin/busybox");
  const layer = tar([
    { path: "owned", data: "by user\n", uid: 1000, gid: 1000 },
    { path: "bin/busybox-raw", data: busybox, mode: 0o755, pax: { "SCHILY.xattr.security.capability": NET_RAW } },
  ]);
  return t.image({ name: "docker.io/library/owners:1", layers: [layer] });
}

/** Root inside must come by all folders above its root file system. */
async function letBy(t: Stage): Promise<void> {
  for (const folder of [t.daemon.dir, dirname(t.daemon.dir)]) await chmod(folder, 0o711);
}

/** Where an active snapshot's own files lie, and its lower layers, top first, as its mount tells. */
async function foldersOf(t: Stage, key: string): Promise<{ readonly upper: string; readonly lowers: string[] }> {
  const line = await t.must("snapshots", "mounts", "/x", key);
  const option = (name: string): string => RegExp(`[ ,]${name}=([^, \n]*)`).exec(line)?.[1] ?? "";
  return { upper: option("upperdir"), lowers: option("lowerdir").split(":") };
}

row(
  "S07",
  "--remap-labels: owners and capabilities of an image's files as inside, unchanged on disk",
  { casts: ["ours"], source: SOURCE, covers: ["flag:ctr run --remap-labels"] },
  async (t) => {
    await letBy(t);
    const [image, id] = [await imageOf(t), t.id("a")];
    await t.must("run", "-d", "--remap-labels", ...MAPS, "--allow-new-privs", image, id, "sleep", "1000");
    const inside = async (...command: string[]): Promise<string> =>
      (await t.must("tasks", "exec", "--exec-id", `e${Math.random()}`, id, ...command)).replaceAll(/[^\S\n]+/g, " ");
    expect(await inside("cat", "/proc/self/uid_map", "/proc/self/gid_map")).toBe(" 0 100000 65536\n 0 200000 65536\n");
    expect(await inside("stat", "-c", "%u:%g", "/", "/bin/sh", "/bin/busybox", "/owned")).toBe(
      "0:0\n0:0\n0:0\n1000:1000\n",
    );
    expect(await inside("sh", "-c", "echo x > /made && chown 7:8 /made && echo more >> /owned && cat /owned")).toBe(
      "by user\nmore\n",
    );
    // What is written belongs to the ids outside; what the image has keeps its own on disk, and nothing was copied.
    const { upper, lowers } = await foldersOf(t, id);
    expect(await stat(`${upper}/made`)).toMatchObject({ uid: 100_007, gid: 200_008 });
    expect(await stat(`${upper}/owned`)).toMatchObject({ uid: 101_000, gid: 201_000 });
    expect(lowers).toHaveLength(2);
    expect(await stat(`${lowers[0]}/owned`)).toMatchObject({ uid: 1000, gid: 1000, size: 8 });
    const listed = await t.must("snapshots", "ls");
    expect(listed.match(/\bCommitted\b/g)).toHaveLength(2);
    expect(await inside("grep", " / / ", "/proc/self/mountinfo")).toContain("idmapped");
    // No mount that showed a layer stays behind on the host.
    expect(await readFile("/proc/self/mountinfo", "utf8")).not.toContain(`${lowers[0]} `);

    // A capability of a file counts in the namespace that owns the file's mapped root.
    const status = ["/bin/busybox-raw", "cat", "/proc/self/status"];
    expect(await inside("grep", "CapEff", "/proc/self/status")).not.toBe("CapEff: 0000000000002000\n");
    const user = ["tasks", "exec", "--user", "1000", "--exec-id", "caps", id];
    expect((await t.must(...user, ...status)).replaceAll(/\s+/g, " ")).toContain(" CapEff: 0000000000002000 ");
    expect((await t.must(...user, "cat", "/proc/self/status")).replaceAll(/\s+/g, " ")).toContain(
      " CapEff: 0000000000000000 ",
    );

    // A neighbour without a mapping has the image as it is.
    expect(await t.must("run", "--rm", image, t.id("b"), "stat", "-c", "%u:%g", "/owned")).toBe("1000:1000\n");
    await t.must("tasks", "rm", "--force", id);
    await t.must("containers", "rm", id);
  },
);

row(
  "S07",
  "--remap-labels with a snapshotter that maps nothing: the client copies, as without it",
  { casts: ["ours"], source: SOURCE },
  async (t) => {
    await letBy(t);
    const flags = ["--snapshotter", "native", "--remap-labels", ...MAPS];
    const look = ["stat", "-c", "%u:%g", "/bin/busybox"];
    expect(await t.must("run", "--rm", ...flags, await t.image(), t.id("a"), ...look)).toBe("0:0\n");
    const listed = await t.must("snapshots", "--snapshotter", "native", "ls");
    expect(listed).toMatch(/^sha256:[0-9a-f]{64}-100000-200000 /m);
  },
);

row(
  "S07",
  "a snapshot with mapping labels is mounted by hand with its owners",
  { casts: ["ours"], source: SOURCE },
  async (t) => {
    const [image, target] = [await imageOf(t), t.path(t.id("m"))];
    const labels = ["uid", "gid"].flatMap((kind) => [
      "--label",
      `containerd.io/snapshot/${kind}mapping=0:100000:65536`,
    ]);
    await mkdir(target);
    await t.must("images", "mount", "--rw", ...labels, image, target);
    try {
      expect(await stat(`${target}/owned`)).toMatchObject({ uid: 101_000, gid: 101_000 });
      expect(await stat(`${target}/bin/busybox`)).toMatchObject({ uid: 100_000, gid: 100_000 });
    } finally {
      await t.must("images", "unmount", "--rm", target);
    }
  },
);

row("S07", "malformed mappings are refused before anything is made", { casts: ["ours"], source: SOURCE }, async (t) => {
  const image = await t.image();
  const bad = ["--remap-labels", "--uidmap", "0:x:1", "--gidmap", "0:1:1"];
  expect(await t.ctr("run", ...bad, image, t.id("a"), "true")).toMatchObject({ code: 1 });
  // Label values that the snapshotter cannot read, past a client that does not look.
  const label = ["--snapshotter-label", "containerd.io/snapshot/uidmapping=1:2"];
  const refused = await t.ctr("containers", "create", ...label, image, t.id("b"), "true");
  expect(refused.code).toBe(1);
  expect(refused.stderr).toContain("failed to unmarshal snapshot ID mapped labels");
  expect(await t.must("containers", "ls", "-q")).toBe("");
  expect(await t.must("snapshots", "ls")).not.toContain("Active");
});

row("D07", "the overlayfs snapshotter tells that it maps ids", { casts: ["ours"], source: SOURCE }, async (t) => {
  const shown = await t.must("plugins", "ls", "--detailed", "id==overlayfs");
  expect(/Capabilities:\s+(.*)/.exec(shown)?.[1]).toBe("remap-ids,only-remap-ids,rebase");
});
