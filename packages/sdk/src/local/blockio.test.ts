import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readBlockIoClasses } from "./blockio.ts";

let dir = "";
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "blockio-"));
});
afterAll(async () => rm(dir, { recursive: true }));

async function read(text: string) {
  const warnings: string[] = [];
  const path = join(dir, "classes.yaml");
  await writeFile(path, text);
  return { classes: await readBlockIoClasses(path, (message) => warnings.push(message)), warnings };
}

test("a class without devices has a weight; units are Kubernetes'", async () => {
  const { classes } = await read("Classes:\n  low: # comment\n    - Weight: 80\n  none: []\n");
  expect([...classes]).toEqual([
    ["low", { weight: 80 }],
    ["none", {}],
  ]);
});

test("what is no block device is told and left out", async () => {
  const { classes, warnings } = await read(
    "Classes:\n  c:\n  - Devices: [/dev/null, /dev/nothing*]\n    ThrottleReadBps: 50M\n",
  );
  expect(classes.get("c")).toEqual({});
  expect(warnings).toEqual([
    'device wildcard "/dev/nothing*" does not match any device nodes',
    'file "/dev/null" is not a block device',
    "no matches on any of Devices: [/dev/null /dev/nothing*], parameters ignored",
  ]);
});

test("values that mean nothing are refused with the peer's words", async () => {
  const of = (entry: string) => read(`Classes:\n  c:\n  - ${entry}\n`);
  expect(of("Weight: 5")).rejects.toThrow('value of "Weight" (5) smaller than minimum (10)');
  expect(of("Weight: 5k")).rejects.toThrow('value of "Weight" (5000) bigger than maximum (1000)');
  expect(of("ThrottleReadBps: 5x")).rejects.toThrow('syntax error in "ThrottleReadBps" ("5x")');
  expect(of("ThrottleReadBps: 5")).rejects.toThrow("Devices not listed");
  expect(readBlockIoClasses(join(dir, "none"), () => undefined)).rejects.toThrow("failed to read config file");
});
