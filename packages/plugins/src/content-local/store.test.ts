import { describe, expect, test } from "bun:test";
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { backgroundContext } from "@stevedore/base";
import { type ContentFixture, collect, contentSuite, refusalOf, writeBlob } from "@stevedore/core/content-suite";
import { digestOf } from "@stevedore/oci/digest";
import { createLocalContent } from "./store.ts";

const context = backgroundContext();

async function fixture(): Promise<ContentFixture & { directory: string }> {
  const directory = await mkdtemp(join(tmpdir(), "stevedore-content-"));
  return {
    directory,
    context,
    store: await createLocalContent({ directory }),
    [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }),
  };
}

contentSuite("local", fixture, { labels: false, missing: (digest) => `content ${digest}: not found` });

describe("createLocalContent()", () => {
  test("lays files out as containerd does, with its modes", async () => {
    await using made = await fixture();
    const { store, directory } = made;
    const digest = await writeBlob(made, "a", Buffer.from("data"));
    const blob = join(directory, "blobs", "sha256", digest.slice(7));
    expect((await stat(blob)).mode & 0o777).toBe(0o444);
    expect((await stat(join(directory, "blobs", "sha256"))).mode & 0o777).toBe(0o755);
    expect(await readdir(join(directory, "ingest"))).toEqual([]);
    {
      await using writer = await store.writer(context, { ref: "open", total: 9 });
      await writer.write(Buffer.from("half"));
    }
    const ingest = join(directory, "ingest", digestOf("open").slice(7));
    expect((await readdir(ingest)).sort()).toEqual(["data", "ref", "startedat", "total", "updatedat"]);
    expect(await readFile(join(ingest, "ref"), "utf8")).toBe("open");
    expect(await readFile(join(ingest, "total"), "utf8")).toBe("9");
  });

  test("a blob that has rotted is made good by whoever writes it again", async () => {
    await using made = await fixture();
    const { store, directory } = made;
    const digest = await writeBlob(made, "a", Buffer.from("data"));
    const blob = join(directory, "blobs", "sha256", digest.slice(7));
    await rm(blob);
    await writeFile(blob, "dat?");
    // Open, so that the new bytes are not hidden by a file that was kept open.
    const read = async (): Promise<string> => {
      await using reader = await store.open(context, digest);
      return Buffer.from(await reader.readAt(0, 10)).toString();
    };
    expect(await read()).toBe("dat?");
    await using writer = await store.writer(context, { ref: "b" });
    await writer.write(Buffer.from("data"));
    expect(await refusalOf(writer.commit(context, { expected: digest }))).toMatchObject({
      errorClass: "already-exists",
    });
    expect(await readFile(blob, "utf8")).toBe("data");
    expect((await stat(blob)).mode & 0o777).toBe(0o444);
    expect(await read()).toBe("data");
    expect(await readdir(join(directory, "ingest"))).toEqual([]);
  });

  test("a start keeps what can be resumed and removes the rest", async () => {
    await using made = await fixture();
    {
      await using writer = await made.store.writer(context, { ref: "keep" });
      await writer.write(Buffer.from("half"));
    }
    const ingest = join(made.directory, "ingest");
    await mkdir(join(ingest, "f".repeat(64)));
    await writeFile(join(ingest, "f".repeat(64), "data"), "x");
    await mkdir(join(ingest, "abc.tmp"));
    await mkdir(join(ingest, "e".repeat(64)));
    await writeFile(join(ingest, "e".repeat(64), "ref"), "other");
    const again = await createLocalContent({ directory: made.directory });
    expect(await readdir(ingest)).toEqual([digestOf("keep").slice(7)]);
    await using writer = await again.writer(context, { ref: "keep" });
    expect(writer.status().offset).toBe(4);
  });

  test("an ingest with another total or a broken time starts anew", async () => {
    await using made = await fixture();
    for (const damage of [
      (): Promise<void> => Promise.resolve(),
      (): Promise<void> => writeFile(join(made.directory, "ingest", digestOf("r").slice(7), "startedat"), "never"),
    ]) {
      {
        await using writer = await made.store.writer(context, { ref: "r", total: 100 });
        await writer.truncate(0);
        await writer.write(Buffer.from("longer than what follows"));
      }
      await damage();
      await using writer = await made.store.writer(context, { ref: "r", total: 5 });
      expect(writer.status()).toMatchObject({ offset: 0, total: 5 });
      await writer.write(Buffer.from("short"));
      expect((await stat(join(made.directory, "ingest", digestOf("r").slice(7), "data"))).size).toBe(5);
      await made.store.abort(context, "r");
    }
  });

  test("abort() under a writer makes its commit fail and frees nothing else", async () => {
    await using made = await fixture();
    await using writer = await made.store.writer(context, { ref: "r" });
    await writer.write(Buffer.from("x"));
    await made.store.abort(context, "r");
    expect((await refusalOf(writer.commit(context))).errorClass).toBe("not-found");
    expect(await collect(made.store.list(context, []))).toEqual([]);
  });

  test.each([
    ["sha256:../../../etc/passwd", "invalid checksum digest length"],
    ["nope", "invalid checksum digest format"],
    [`md5:${"0".repeat(32)}`, "unsupported digest algorithm"],
    [`sha256:${"g".repeat(64)}`, "invalid checksum digest format"],
  ])("never makes a path of %s", async (digest, why) => {
    await using made = await fixture();
    expect(await refusalOf(made.store.info(context, digest))).toEqual({
      errorClass: "invalid-argument",
      message: `calculating blob info path: cannot calculate blob path from invalid digest: ${why}: invalid argument`,
    });
    expect((await refusalOf(made.store.open(context, digest))).errorClass).toBe("invalid-argument");
    expect((await refusalOf(made.store.delete(context, digest))).errorClass).toBe("invalid-argument");
  });

  test("a process killed while it writes leaves whole blobs, and ingests that can be resumed", async () => {
    await using made = await fixture();
    const confirmed: string[] = [];
    for (let round = 0; round < 5; round++) {
      const child = Bun.spawn(
        [process.execPath, join(import.meta.dir, "crash-child.ts"), made.directory, `r${round}`],
        {
          stdin: "ignore",
          stdout: "pipe",
          stderr: "inherit",
        },
      );
      const timer = setTimeout(() => child.kill("SIGKILL"), 200 + round * 41);
      const output = await new Response(child.stdout).text();
      clearTimeout(timer);
      await child.exited;
      confirmed.push(...output.split("\n").slice(0, -1));
    }
    const store = await createLocalContent({ directory: made.directory });
    const found = await collect(store.list(context, []));
    const digests = new Set(found.map((info) => info.digest));
    expect(confirmed.filter((digest) => !digests.has(digest))).toEqual([]);
    for (const { digest } of found) {
      const bytes = await readFile(join(made.directory, "blobs", "sha256", digest.slice(7)));
      expect(digestOf(bytes)).toBe(digest);
    }
    for (const { ref } of await store.listStatuses(context, [])) {
      await using writer = await store.writer(context, { ref });
      // Two of them may have got no byte yet; what comes now keeps their digests apart.
      await writer.write(Buffer.from(`rest of ${ref}`));
      expect(await writer.commit(context)).toStartWith("sha256:");
    }
    expect(await readdir(join(made.directory, "ingest"))).toEqual([]);
  }, 30_000);

  test("a full disk fails the write; the ingest goes on when there is room", async () => {
    await using made = await fixture();
    const small = join(made.directory, "small");
    await mkdir(small);
    const mount = Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small]);
    if (mount.exitCode !== 0) return; // Without the right to mount there is no small disk.
    try {
      const store = await createLocalContent({ directory: join(small, "content") });
      {
        await using writer = await store.writer(context, { ref: "big" });
        await writer.write(Buffer.alloc(300_000, "a"));
        const refusal = await refusalOf(writer.write(Buffer.alloc(2_000_000, "b")));
        expect(refusal).toEqual({
          errorClass: "resource-exhausted",
          message: "write ingest big: no space left on device",
        });
        expect((await refusalOf(writer.commit(context))).errorClass).toBe("failed-precondition");
      }
      expect(await collect(store.list(context, []))).toEqual([]);
      await using writer = await store.writer(context, { ref: "big" });
      // What did fit is there, and counts.
      expect(writer.status().offset).toBeGreaterThanOrEqual(300_000);
      await writer.truncate(0);
      await writer.write(Buffer.alloc(300_000, "a"));
      expect(await writer.commit(context)).toBe(digestOf(Buffer.alloc(300_000, "a")));
    } finally {
      Bun.spawnSync(["umount", "-l", small]);
    }
  });
});
