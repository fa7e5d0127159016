import { afterAll, describe, expect, test } from "bun:test";
import { mkdtemp, readFile, rm, symlink, unlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { errorClassOf } from "@stevedore/base/errors";
import { makeFifo, openFifoBoth } from "@stevedore/os/fifo";
import { externalStreams, keepStreams, writeDumpConfig, writeRestoreConfig } from "./criu-streams.ts";

const folder = await mkdtemp(join(tmpdir(), "stv-streams-"));
afterAll(async () => rm(folder, { recursive: true }));

describe("a container's FIFOs and criu", () => {
  test("those that are streams are found by mount and inode, also when they are removed; a checkpoint keeps which is which", async () => {
    const names = { stdin: "", stdout: join(folder, "out"), stderr: join(folder, "err"), terminal: false };
    for (const path of [names.stdout, names.stderr, join(folder, "other")]) makeFifo(path);
    using out = openFifoBoth(names.stdout);
    using _err = openFifoBoth(names.stderr);
    using _other = openFifoBoth(join(folder, "other"));
    await unlink(names.stderr);
    const found = await externalStreams([process.pid, 2 ** 22 + 1], names);
    expect(new Set(found.map((one) => one.stream))).toEqual(new Set([1, 2] as const));
    const mount = /^mnt_id:\s*(\d+)$/m.exec(await readFile(`/proc/self/fdinfo/${out.fd}`, "utf8"))?.[1];
    expect(found.find((one) => one.stream === 1)?.key).toStartWith(`file[${Number(mount).toString(16)}:`);

    const config = join(folder, "config");
    await writeDumpConfig(config, found.slice(0, 1));
    expect(await readFile(config, "utf8")).toMatch(/^external file\[[0-9a-f]+:[0-9a-f]+\]\n$/);
    expect(await writeRestoreConfig(config, folder)).toBe(false);
    await keepStreams(folder, found);
    expect(await writeRestoreConfig(config, folder)).toBe(true);
    expect((await readFile(config, "utf8")).split("\n").sort().slice(1)).toEqual(
      found.map(({ stream, key }) => `inherit-fd fd[${stream}]:${key}`).sort(),
    );
  });

  test("a list that would say more to criu is refused", async () => {
    const list = join(folder, "stevedore-streams.json");
    for (const text of [
      "{}",
      "{",
      '{"streams":[{"stream":3,"key":"file[1:2]"}]}',
      '{"streams":[{"stream":1,"key":"file[1:2]\\naction-script /tmp/x"}]}',
      '{"streams":[{"stream":1}]}',
      " ".repeat(5_000),
    ]) {
      await rm(list, { force: true });
      await writeFile(list, text);
      const refused = await writeRestoreConfig(join(folder, "no"), folder).then(() => "taken", errorClassOf);
      expect({ text: text.slice(0, 40), refused }).toEqual({ text: text.slice(0, 40), refused: "invalid-argument" });
    }
    await rm(list);
    await symlink("/dev/zero", list);
    expect(await writeRestoreConfig(join(folder, "no"), folder).then(() => "taken", errorClassOf)).toBe(
      "invalid-argument",
    );
  });
});
