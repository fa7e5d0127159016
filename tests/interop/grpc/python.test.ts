// Our gRPC server and the C core's client (python3-grpcio), over one connection each.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createGrpcServer } from "@stevedore/wire/grpc/server";
import { pending, tortureRouter } from "./server.ts";

/** Small sizes in a quick run; MINUTES=1 or more for full ones. */
const full = Number(process.env["MINUTES"] ?? "0") >= 1;
const server = createGrpcServer({ router: tortureRouter() });
let folder = "";

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "grpc-python-"));
  await server.serveUnix(join(folder, "s.sock"));
});

afterAll(async () => {
  await server.stop();
  await rm(folder, { recursive: true });
});

async function client(scenario: string, n = 1): Promise<unknown> {
  const child = Bun.spawn(
    ["/usr/bin/python3", join(import.meta.dir, "client.py"), join(folder, "s.sock"), scenario, String(n)],
    { stdout: "pipe", stderr: "pipe", timeout: 120_000 },
  );
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code !== 0) throw new Error(`client.py ${scenario}: exit ${code}: ${err}`);
  const parsed: unknown = JSON.parse(out);
  return parsed;
}

/** A number of a result. */
function number(result: unknown, key: string): number {
  const value: unknown = typeof result === "object" && result !== null ? Reflect.get(result, key) : undefined;
  if (typeof value !== "number") throw new Error(`no number ${key} in ${JSON.stringify(result)}`);
  return value;
}

test("A02 2,000 pending calls on one connection, unary calls beside them", async () => {
  const result = await client("pending", 2000);
  expect(result).toMatchObject({ cancelled: 2000 });
  expect(number(result, "unary_ms")).toBeLessThan(20);
  for (let i = 0; i < 400 && pending.size > 0; i++) await Bun.sleep(5);
  expect(pending.size).toBe(0);
}, 60_000);

test("A02 cancelled streams", async () => {
  const n = full ? 5000 : 500;
  expect(number(await client("cancels", n), "unary_ms")).toBeLessThan(50);
}, 120_000);

test("A02 streams one behind another", async () => {
  const n = full ? 10_000 : 1000;
  // Each message: its data of 2 KiB and the field's head of three bytes.
  expect(await client("sequential", n)).toMatchObject({ streams: n, bytes: n * 2051 });
}, 120_000);

for (const n of [1, 2, 8]) {
  test(`A02 400 MB over ${n} streams`, async () => {
    expect(number(await client("streams", n), "bytes")).toBeGreaterThanOrEqual(400 << 20);
  }, 60_000);
}

test("A02 one reader beside 19 streams nobody reads", async () => {
  const result = await client("unread", 19);
  expect(number(result, "seconds")).toBeLessThan(10);
  expect(number(result, "unary_ms")).toBeLessThan(50);
}, 60_000);

test("A02 a slow reader", async () => {
  expect(number(await client("slow", 50), "bytes")).toBeGreaterThan(50 << 20);
}, 60_000);

test("A02 uploads", async () => {
  expect(await client("upload", 200)).toMatchObject({ answers: 1 });
}, 60_000);

test("A02 messages of 16 MiB and one byte more", async () => {
  expect(await client("largest")).toMatchObject({
    up: 1,
    over: { code: "RESOURCE_EXHAUSTED", details: "grpc: received message larger than max (16777217 vs. 16777216)" },
    down: [16 << 20],
    down_over: {
      code: "RESOURCE_EXHAUSTED",
      details: "grpc: trying to send message larger than max (16777217 vs. 16777216)",
    },
  });
}, 60_000);

test("A02 bodies around window and frame sizes", async () => {
  expect(await client("bodies")).toEqual({ good: 24 });
}, 60_000);

test("A02 half-close", async () => {
  expect(await client("half_close")).toEqual({ during: 5, behind: 1, code: "OK" });
}, 60_000);

test("A02 errors: details of 16 KiB, deadline, unknown names", async () => {
  const result = await client("errors");
  // The client's own words or the server's, whichever clock is first.
  expect(JSON.stringify(result)).toMatch(/"details": ?"(context )?deadline exceeded"/i);
  expect(result).toMatchObject({
    details: { code: "NOT_FOUND", details: "ü%: not found" },
    deadline: { code: "DEADLINE_EXCEEDED", bin: 0 },
    method: {
      code: "UNIMPLEMENTED",
      details: "unknown method Nope for service containerd.services.content.v1.Content",
      bin: 0,
    },
    service: { code: "UNIMPLEMENTED", details: "unknown service a.B", bin: 0 },
  });
}, 60_000);

test("A02 metadata, also binary, both ways", async () => {
  expect(await client("metadata")).toMatchObject({ head: ["a+b"], tail: [Array.from({ length: 256 }, (_, i) => i)] });
}, 60_000);

test("A02 keepalive pings are answered", async () => {
  const result = await client("keepalive");
  expect(result).toMatchObject({ done: false });
  expect(number(result, "unary_ms")).toBeLessThan(50);
}, 60_000);
