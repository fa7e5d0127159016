import { expect, test } from "bun:test";
import { chmod, chown, lchown, lstat, mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mapOwners } from "./owners.ts";

const MAPS = {
  uid: [
    { containerID: 0, hostID: 100_000, size: 10 },
    { containerID: 1_000, hostID: 300_000, size: 1 },
  ],
  gid: [{ containerID: 0, hostID: 200_000, size: 2_000 }],
};

test("mapOwners() moves owners by their ranges, follows no symlink and keeps set-id bits", async () => {
  const dir = await mkdtemp(join(tmpdir(), "stv-owners-"));
  try {
    const [tree, out] = [join(dir, "tree"), join(dir, "outside")];
    await mkdir(join(tree, "sub"), { recursive: true });
    await writeFile(out, "mine");
    await writeFile(join(tree, "sub/tool"), "x");
    await chown(join(tree, "sub/tool"), 1_000, 1_999);
    await chmod(join(tree, "sub/tool"), 0o6755);
    await symlink(out, join(tree, "link"));
    await lchown(join(tree, "link"), 9, 9);
    mapOwners(tree, MAPS);
    const owner = async (path: string): Promise<number[]> => {
      const { uid, gid, mode } = await lstat(path);
      return [uid, gid, mode & 0o7777];
    };
    expect((await owner(tree)).slice(0, 2)).toEqual([100_000, 200_000]);
    expect((await owner(join(tree, "sub"))).slice(0, 2)).toEqual([100_000, 200_000]);
    expect(await owner(join(tree, "sub/tool"))).toEqual([300_000, 201_999, 0o6755]);
    expect((await owner(join(tree, "link"))).slice(0, 2)).toEqual([100_009, 200_009]);
    expect((await owner(out)).slice(0, 2)).toEqual([0, 0]);
  } finally {
    await rm(dir, { recursive: true });
  }
});

test("mapOwners() names what no range holds", async () => {
  const dir = await mkdtemp(join(tmpdir(), "stv-owners-"));
  try {
    await writeFile(join(dir, "file"), "x");
    await chown(join(dir, "file"), 77, 0);
    expect(() => mapOwners(dir, MAPS)).toThrow(`change owner of ${dir}/file: no mapping holds its uid 77`);
  } finally {
    await rm(dir, { recursive: true });
  }
});
