// `stevedore image verify`: finds what has rotted in blobs and in unpacked layers, on our daemon and on Debian's.
import { expect } from "bun:test";
import { open, readFile, rm, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Daemon, repository } from "../harness/daemon.ts";
import { ociArchive } from "../harness/images.ts";
import { freePort } from "../harness/ports.ts";
import { eventually, exec, type Result } from "../harness/process.ts";
import { row, type Stage } from "../harness/row.ts";

async function stevedore(t: Stage, ...args: string[]): Promise<Result> {
  const own = join(repository, "build/bin/stevedore");
  return exec([own, "--address", t.daemon.address, "-n", t.namespace, ...args], { timeoutMs: 60_000 });
}

async function verify(t: Stage, ...args: string[]): Promise<Result> {
  return stevedore(t, "image", "verify", ...args);
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
      await Bun.sleep(300);
      const ran = await verify(t, "--blobs-only", image);
      return ran.stdout.includes("damaged") ? undefined : ran;
    });
    expect(missing.code).toBe(1);
    expect(missing.stdout).toMatch(new RegExp(`layer\\s+${layer}\\s.*missing`));
  },
);

const port = freePort();
row(
  "C20",
  "image repair fetches what is damaged and nothing else, and unpacks anew; registry explain tells from where",
  { casts: ["ours"], ownDaemon: true, timeoutMs: 180_000 },
  async (t) => {
    // Another daemon is the registry.
    const config = `[plugins."stevedore.registry.v1.endpoint"]\n  address = "127.0.0.1:${port}"\n`;
    const other = await Daemon.start({ maker: "ours", config });
    try {
      const image = `127.0.0.1:${port}/library/busybox:test`;
      const archive = t.path("image.tar");
      await writeFile(archive, await ociArchive({ name: "docker.io/library/busybox:test" }));
      expect(await other.ctr("ours", "default", ["images", "import", archive])).toMatchObject({ code: 0 });
      await t.image({ name: image });
      expect((await stevedore(t, "image", "repair", image)).stdout).toBe(`${image}: nothing to repair\n`);

      const blobs = (await verify(t, "--blobs-only", image)).stdout;
      const layer = /layer\s+(sha256:[0-9a-f]{64})/.exec(blobs)?.[1] ?? "";
      const config = /config\s+(sha256:[0-9a-f]{64})/.exec(blobs)?.[1] ?? "";
      {
        await using file = await open(blobPath(t, layer), "r+");
        await file.write(Buffer.from("rotten"), 0, 6, 1000);
      }
      {
        await using file = await open(blobPath(t, config), "r+");
        await file.truncate(10);
      }
      const key = /sha256:[0-9a-f]{64}/.exec(await t.must("snapshots", "ls"))?.[0] ?? "";
      const mounts = await t.must("snapshots", "view", "--target", "/target", `${t.namespace}-view`, key);
      const root = /(\/\S+\/fs)\b/.exec(mounts)?.[1] ?? "";
      await t.must("snapshots", "rm", `${t.namespace}-view`);
      await rm(join(root, "bin/sh"));

      const explained = await stevedore(t, "registry", "explain", "--live", image);
      expect(explained).toMatchObject({ code: 0, stderr: "" });
      expect(explained.stdout).toContain(`127.0.0.1:${port}/v2`);
      expect(explained.stdout).toContain("account       none (anonymous)");
      expect(explained.stdout).toMatch(/live +ok, status 200/);

      const repaired = await stevedore(t, "image", "repair", image);
      expect(repaired).toMatchObject({ code: 0, stderr: "" });
      expect(repaired.stdout.trim().split("\n").toSorted()).toEqual(
        [`${layer}: fetched`, `${config}: fetched`, "unpacked anew from layer 1 on"].toSorted(),
      );
      expect(await verify(t, image)).toMatchObject({ code: 0 });
      expect(await t.must("run", "--rm", image, t.id("a"), "sh", "-c", "echo sound")).toBe("sound\n");

      // What a container stands on is left, and said.
      await t.must("run", "-d", image, t.id("b"), "sleep", "1000");
      await rm(join(root, "bin/ls"), { force: true });
      const stands = await stevedore(t, "image", "repair", image);
      if (stands.code !== 0) expect(stands.stderr).toContain("remove the containers and snapshots that stand on");
      await t.must("tasks", "rm", "-f", t.id("b"));

      await other.close();
      const gone = await stevedore(t, "registry", "explain", "--live", image);
      expect(gone.code).toBe(1);
      expect(gone.stdout).toContain("live          not ok");
      expect(gone.stdout).toContain("connection refused");
      const file = blobPath(t, layer);
      await rm(file);
      const failed = await eventually("the missing blob", async () => {
        await Bun.sleep(300);
        const ran = await stevedore(t, "image", "repair", image);
        return ran.code === 0 ? undefined : ran;
      });
      expect(failed.stderr).toContain(`127.0.0.1:${port}`);
    } finally {
      await other.close();
    }
  },
);
