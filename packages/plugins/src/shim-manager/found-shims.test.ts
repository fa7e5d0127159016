import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FoundShims } from "./found-shims.ts";

let dir = "";
let server: Server | undefined;
/** Connections that were accepted. */
const accepted: unknown[] = [];

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "found-shims-"));
  accepted.length = 0;
});

afterEach(async () => {
  server?.close();
  server = undefined;
  await rm(dir, { recursive: true, force: true });
});

const LIMIT = AbortSignal.timeout(10_000);

async function listening(): Promise<{ version: number; address: string; protocol: string }> {
  const path = join(dir, "shim.sock");
  server = createServer((socket) => void accepted.push(socket));
  await new Promise<void>((resolve) => server?.listen(path, resolve));
  return { version: 3, address: `unix://${path}`, protocol: "ttrpc" };
}

test("containers of one shim have one connection, which lasts as long as one of them needs it", async () => {
  const record = await listening();
  const shims = new FoundShims();
  const [first, second] = await Promise.all([shims.connect(record, "n", LIMIT), shims.connect(record, "n", LIMIT)]);
  const other = await shims.connect(record, "m", LIMIT);
  while (accepted.length < 2) await Bun.sleep(1);
  first.close();
  first.close();
  await first.closed;
  expect([first.isClosed, second.isClosed]).toEqual([true, false]);
  second.close();
  expect(second.isClosed).toBe(true);
  other.close();
  expect(accepted).toHaveLength(2);
});

test("a shim that is not there is told to each, and takes nobody else down", async () => {
  const record = { version: 3, address: `unix://${join(dir, "nobody.sock")}`, protocol: "ttrpc" };
  const shims = new FoundShims();
  const told = await Promise.allSettled([shims.connect(record, "n", LIMIT), shims.connect(record, "n", LIMIT)]);
  expect(told.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
  expect(await shims.state(record, { namespace: "n", id: "c" }, 1_000)).toBeUndefined();
});
