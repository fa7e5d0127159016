import { expect, test } from "bun:test";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseExpected } from "./expected.ts";
import { busyboxLayer, dockerArchive, ociArchive } from "./images.ts";
import { exec } from "./process.ts";
import { tar } from "./tar.ts";

async function listing(archive: Uint8Array): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "stv-"));
  try {
    await writeFile(join(dir, "a.tar"), archive);
    const ran = await exec(["tar", "--numeric-owner", "--utc", "-tvf", join(dir, "a.tar")]);
    expect(ran.stderr).toBe("");
    return ran.stdout;
  } finally {
    await rm(dir, { recursive: true });
  }
}

test("GNU tar reads what the tar writer makes, long names, links and devices too", async () => {
  const long = `${"d".repeat(60)}/${"e".repeat(60)}`;
  const list = await listing(
    tar([
      { path: "dir/", type: "dir" },
      { path: "f", data: "hello", mode: 0o4755, uid: 1000, gid: 7 },
      { path: "l", type: "symlink", target: "f" },
      { path: "n", type: "char", device: [1, 3] },
      { path: long, data: "x" },
    ]),
  );
  expect(list).toContain("-rwsr-xr-x 1000/7");
  expect(list).toContain("l -> f");
  expect(list).toMatch(/crw-r--r-- 0\/0\s+1,3/);
  expect(list).toContain(long);
});

test("test images are the same on every run", async () => {
  expect(await ociArchive()).toEqual(await ociArchive());
  expect((await listing(await dockerArchive())).split("\n").length).toBeGreaterThan(2);
  expect(await listing(await busyboxLayer())).toContain("bin/sh -> busybox");
});

test("a command on a terminal of its own, with stdin, and past its time limit", async () => {
  expect(await exec(["sh", "-c", "cat; exit 3"], { stdin: "in" })).toEqual({ code: 3, stdout: "in", stderr: "" });
  expect((await exec(["tty"], { tty: true })).stdout).toContain("/dev/pts/");
  expect((await exec(["sh", "-c", "kill -TERM $$"])).code).toBe(143);
  await expect(exec(["sleep", "5"], { timeoutMs: 100 })).rejects.toThrow("did not end within 100 ms");
});

test("an expected failure has a cause", async () => {
  expect(parseExpected("# words\nt.test.ts > a -- b -- not yet\n", "x.txt")).toEqual([
    { key: "t.test.ts > a -- b", cause: "not yet", where: "x.txt:2" },
  ]);
  expect(() => parseExpected("t.test.ts > a\n", "x.txt")).toThrow("gives its cause");
  expect(await readFile("/bin/busybox")).not.toBeEmpty();
});
