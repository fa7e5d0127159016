import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { readExitRecord, readOptions, readSpecFacts, writeExitRecord, writeOptions } from "./bundle.ts";
import { DEFAULT_OPTIONS } from "./options.ts";

let dir = "";
beforeAll(async () => {
  dir = await mkdtemp("/tmp/shim-bundle-");
});
afterAll(() => rm(dir, { recursive: true, force: true }));

test("options are kept as the peer keeps them (F29)", async () => {
  await writeOptions(dir, DEFAULT_OPTIONS);
  expect(await readFile(join(dir, "options.json"), "utf8")).toBe("{}");
  expect((await stat(join(dir, "options.json"))).mode & 0o777).toBe(0o600);
  const options = { ...DEFAULT_OPTIONS, binaryName: "crun", root: "/r", systemdCgroup: true, ioUid: 7 };
  await writeOptions(dir, options);
  expect(await readFile(join(dir, "options.json"), "utf8")).toBe(
    '{"io_uid":7,"binary_name":"crun","root":"/r","systemd_cgroup":true}',
  );
  expect(await readFile(join(dir, "runtime"), "utf8")).toBe("crun");
  expect(await readOptions(dir)).toEqual(options);
});

test("an exit record is read back, a damaged one is none", async () => {
  expect(await readExitRecord(dir)).toBeUndefined();
  const record = { pid: 12, status: 137, exitedAt: new Date(1_000_000) };
  await writeExitRecord(dir, record);
  expect(await readExitRecord(dir)).toEqual(record);
  await writeFile(join(dir, "exitstatus.json"), '{"Pid":12');
  expect(await readExitRecord(dir)).toBeUndefined();
});

test("readSpecFacts() sees annotations and whether the pid namespace is private", async () => {
  const facts = async (spec: unknown): Promise<unknown> => {
    await writeFile(join(dir, "config.json"), JSON.stringify(spec));
    return readSpecFacts(dir);
  };
  expect(await facts({ annotations: { a: "b" } })).toEqual({ annotations: { a: "b" }, privatePidNamespace: false });
  expect(await facts({ linux: { namespaces: [{ type: "pid" }] } })).toEqual({
    annotations: {},
    privatePidNamespace: true,
  });
  expect(await facts({ linux: { namespaces: [{ type: "pid", path: "/proc/1/ns/pid" }] } })).toMatchObject({
    privatePidNamespace: false,
  });
  await writeFile(join(dir, "config.json"), "{");
  await expect(readSpecFacts(dir)).rejects.toThrow("config.json");
});
