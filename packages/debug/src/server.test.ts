import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtemp, readdir, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { createLogger } from "@stevedore/base";
import { Profile } from "pprof-format";
import { samplesOf } from "./cpu-profile.ts";
import { serveDebug } from "./server.ts";

let dir = "";
let server: AsyncDisposable;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "debug-"));
  server = await serveDebug({ address: join(dir, "d.sock"), uid: 0, gid: 0, profiles: true, log: createLogger() });
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  expect(await readdir(dir)).toEqual([]);
  await rm(dir, { recursive: true });
});

const get = async (path: string): Promise<Response> => fetch(`http://localhost${path}`, { unix: join(dir, "d.sock") });
const decode = async (response: Response): Promise<Profile> =>
  Profile.decode(gunzipSync(new Uint8Array(await response.arrayBuffer())));

test("the socket has the peer's mode, and nothing lies beside it", async () => {
  expect((await stat(join(dir, "d.sock"))).mode & 0o777).toBe(0o660);
  expect(await readdir(dir)).toEqual(["d.sock"]);
});

test("heap, binary and as text", async () => {
  const profile = await decode(await get("/debug/pprof/heap"));
  expect(profile.sample.length).toBeGreaterThan(10);
  expect(profile.stringTable.strings).toContain("inuse_space");
  expect(await (await get("/debug/pprof/heap?debug=1")).text()).toStartWith("heap profile: ");
});

function burnForTheProfile(until: number): number {
  let sum = 0;
  while (performance.now() < until) for (let i = 0; i < 10_000; i++) sum += Math.sqrt(i);
  return sum;
}

test("a CPU profile shows what ran", async () => {
  const pending = get("/debug/pprof/profile?seconds=0.3");
  await Bun.sleep(50);
  const until = performance.now() + 150;
  burnForTheProfile(until);
  const profile = await decode(await pending);
  expect(profile.stringTable.strings).toContain("burnForTheProfile");
});

test("what a JavaScript engine lacks, and what nobody has", async () => {
  const goroutine = await get("/debug/pprof/goroutine?debug=2");
  expect([goroutine.status, await goroutine.text()]).toEqual([
    501,
    "profile goroutine is not implemented: a JavaScript engine has no goroutines\n",
  ]);
  expect((await get("/debug/pprof/none")).status).toBe(404);
  expect((await get("/debug/pprof/profile?seconds=x")).status).toBe(400);
  expect((await get("/other")).status).toBe(404);
  expect(await (await get("/debug/vars")).json()).toHaveProperty("memory");
});

test("samples become stacks, innermost first", () => {
  const frame = (functionName: string) => ({ functionName, url: "file:///a.ts", lineNumber: 4 });
  const nodes = [
    { id: 1, callFrame: frame("(root)"), children: [2] },
    { id: 2, callFrame: frame("outer"), children: [3] },
    { id: 3, callFrame: frame("inner") },
  ];
  expect(samplesOf({ nodes, samples: [3, 3, 1], timeDeltas: [1000, 5000, 10] })).toEqual([
    {
      stack: [
        { name: "inner", file: "/a.ts", line: 5 },
        { name: "outer", file: "/a.ts", line: 5 },
      ],
      values: [2, 2_000_000],
    },
  ]);
});
