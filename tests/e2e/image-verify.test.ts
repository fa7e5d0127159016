// `stevedore image verify`: finds what has rotted in blobs and in unpacked layers, on our daemon and on Debian's.
import { expect } from "bun:test";
import { open, readFile, rm, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { repository } from "../harness/daemon.ts";
import { eventually, exec, type Result } from "../harness/process.ts";
import { row, type Stage } from "../harness/row.ts";

async function verify(t: Stage, ...args: string[]): Promise<Result> {
  return exec(
    [
      join(repository, "build/bin/stevedore"),
      "--address",
      t.daemon.address,
      "-n",
      t.namespace,
      "image",
      "verify",
      ...args,
    ],
    {
      timeoutMs: 60_000,
    },
  );
}

/** The file of a blob. */
function blobPath(t: Stage, digest: string): string {
  return join(t.daemon.root, "io.containerd.content.v1.content/blobs/sha256", digest.slice("sha256:".length));
}

row(
  "C19",
  "image verify tells sound images from rotten blobs and changed layers",
  { casts: ["ours", "our-ctr"], ownDaemon: true, timeoutMs: 180_000 },
  async (t) => {
    const image = await t.image();
    const sound = await verify(t, image);
    expect(sound).toMatchObject({ code: 0, stderr: "" });
    expect(sound.stdout).toContain("unpacked: ok (1 layer)");
    expect(await verify(t, "--quiet")).toMatchObject({ code: 0, stdout: "" });
    expect(JSON.parse((await verify(t, "--json", image)).stdout)).toMatchObject({ image, layers: { kind: "ok" } });
    // Nothing of the comparison stays.
    expect(await t.must("snapshots", "ls")).not.toContain("verify-");
    expect((await t.must("leases", "ls")).trim().split("\n")).toHaveLength(1);

    // A file below the snapshot that another program has changed, one more, and one that is gone.
    const key = /sha256:[0-9a-f]{64}/.exec(await t.must("snapshots", "ls"))?.[0] ?? "";
    const mounts = await t.must("snapshots", "view", "--target", "/target", `${t.namespace}-view`, key);
    const root = /(\/\S+\/fs)\b/.exec(mounts)?.[1] ?? "";
    await t.must("snapshots", "rm", `${t.namespace}-view`);
    const shell = join(root, "bin/busybox");
    const bytes = await readFile(shell);
    const changed = Buffer.from(bytes);
    changed[1000] = (changed[1000] ?? 0) ^ 1;
    await writeFile(shell, changed);
    await utimes(shell, 0, 0);
    await writeFile(join(root, "bin/more"), "");
    await rm(join(root, "bin/sh"));
    const rotten = await verify(t, image);
    expect(rotten.code).toBe(1);
    expect(rotten.stdout).toContain(`unpacked: damaged from layer 1 on, snapshot ${key}`);
    expect(rotten.stdout).toContain("/bin/busybox has other bytes");
    expect(rotten.stdout).toContain("/bin/more is there and should not be");
    expect(rotten.stdout).toContain("/bin/sh is missing");

    // A layer's blob with one bit turned: named, and the layers cannot be compared.
    const listed = (await verify(t, "--blobs-only", image)).stdout;
    const layer = /layer\s+(sha256:[0-9a-f]{64})/.exec(listed)?.[1] ?? "";
    const path = blobPath(t, layer);
    {
      await using file = await open(path, "r+");
      await file.write(Buffer.from("rotten"), 0, 6, 1000);
    }
    const damaged = await verify(t, image);
    expect(damaged.code).toBe(1);
    expect(damaged.stdout).toMatch(new RegExp(`layer\\s+${layer}\\s.*damaged: its bytes have the digest sha256:`));
    expect(damaged.stdout).toContain("unpacked: cannot be compared: layer 1:");
    await rm(path);
    // Our daemon keeps a blob open for a moment after its last reader.
    const missing = await eventually("the missing blob", async () => {
      const ran = await verify(t, "--blobs-only", image);
      return ran.stdout.includes("damaged") ? undefined : ran;
    });
    expect(missing.code).toBe(1);
    expect(missing.stdout).toMatch(new RegExp(`layer\\s+${layer}\\s.*missing`));
  },
);
