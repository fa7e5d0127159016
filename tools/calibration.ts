// Which end-to-end cases have passed on the real peer: tests/calibrated.json, by a hash of the test file and the peer's version.
import { createHash } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { isString, listOf, readJson, recordOf, shapeOf } from "./json.ts";
import type { Case } from "./junit.ts";
import { root, run, sources } from "./project.ts";

const PATH = "tests/calibrated.json";
/** What a file with rows for the peer says, of its imports: `harness/row.ts`, or one that is made of it (`docker-row.ts`). */
export const ROWS = 'row.ts"';
const isKept = shapeOf({
  /** What `containerd --version` of the peer printed. */
  peer: isString,
  /** Test file to the sha256 of its text when its cases last passed on the peer, and their names. */
  files: recordOf(shapeOf({ hash: isString, cases: listOf(isString) })),
});

export type Calibration = {
  /** Every end-to-end file with cases for the peer is unchanged since they passed on this peer. */
  readonly complete: boolean;
  readonly cases: ReadonlySet<string>;
};

async function hashOf(file: string): Promise<string> {
  return createHash("sha256")
    .update(await readFile(join(root, file)))
    .digest("hex");
}

async function peerVersion(): Promise<string> {
  return (await run([join(root, "build/peer/usr/bin/containerd"), "--version"])).stdout.trim();
}

/** What is kept of earlier calibrations, for this machine's peer. */
export async function calibratedCases(): Promise<Calibration> {
  const kept = await readJson(PATH, isKept).catch(() => undefined);
  if (kept === undefined || kept.peer !== (await peerVersion())) return { complete: false, cases: new Set() };
  const cases = new Set<string>();
  let complete = true;
  // Timed lanes (`x.scale.test.ts`) ask the peer each time.
  for (const file of (await sources("tests")).filter((name) => /\/[^/.]+\.test\.ts$/.test(name))) {
    const known = kept.files[file];
    if (known !== undefined && known.hash === (await hashOf(file)))
      for (const name of known.cases) cases.add(`${file} > ${name}`);
    else if ((await readFile(join(root, file), "utf8")).includes(ROWS)) complete = false;
  }
  return { complete, cases };
}

/** Keeps the results of a calibration run of `files`: those whose peer cases all passed, also if there are none. */
export async function keepCalibration(ran: readonly string[], cases: readonly Case[]): Promise<void> {
  const kept = await readJson(PATH, isKept).catch(() => undefined);
  const peer = await peerVersion();
  const files = new Map(Object.entries(kept?.peer === peer ? kept.files : {}));
  for (const file of ran) {
    const own = cases.filter((one) => one.file === file && one.name.endsWith("[peer]"));
    if (own.every((one) => one.state === "passed"))
      files.set(file, { hash: await hashOf(file), cases: own.map((one) => one.name).sort() });
    else files.delete(file);
  }
  const sorted = Object.fromEntries([...files].sort(([a], [b]) => (a < b ? -1 : 1)));
  await writeFile(join(root, PATH), `${JSON.stringify({ peer, files: sorted }, undefined, 2)}\n`);
}
