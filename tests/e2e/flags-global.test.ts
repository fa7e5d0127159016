// ctr's flags before any command, its profiles, and commands that stand by themselves. Profiles are asked of a debug server made
// here, so that what each flag asks for is seen whatever the daemon behind it can answer.
import { expect } from "bun:test";
import { createHash } from "node:crypto";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createServer as createSocket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { program } from "../harness/daemon.ts";
import { exec } from "../harness/process.ts";
import { row, type Stage } from "../harness/row.ts";

const newer = (command: string) =>
  ({ casts: ["ours", "our-ctr"], source: `containerd 2.3.4, ${command} --help` }) as const;

/** Milliseconds that something takes, and what it gives. */
async function timed<T>(work: () => Promise<T>): Promise<{ readonly ms: number; readonly result: T }> {
  const started = performance.now();
  const result = await work();
  return { ms: performance.now() - started, result };
}

row("G01", "--debug shows what is done", { covers: ["flag:ctr --debug"] }, async (t) => {
  await t.image();
  const silent = await t.ctr("content", "prune", "references", "--async");
  expect(silent).toEqual({ code: 0, stdout: "", stderr: "" });
  await t.image({ name: "docker.io/library/again:1" });
  const told = await t.ctr("--debug", "content", "prune", "references", "--async");
  expect(told.code).toBe(0);
  expect(told.stderr).toMatch(/level=debug msg="Removing label"/);
});

row("G01", "--timeout ends a command that takes longer", { covers: ["flag:ctr --timeout"] }, async (t) => {
  const { ms, result } = await timed(async () => t.ctr("--timeout", "700ms", "events"));
  expect(result.code).toBe(1);
  expect(result.stderr).toMatch(/deadline exceeded/i);
  expect(ms).toBeGreaterThan(600);
  expect(ms).toBeLessThan(5_000);
});

row(
  "G01",
  "--connect-timeout: a socket whose owner says nothing is given up",
  { casts: ["peer", "ours"], covers: ["flag:ctr --connect-timeout"] },
  async (t) => {
    const dir = await mkdtemp(join(tmpdir(), "stv-mute-"));
    const mute = createSocket(() => undefined);
    const ready = Promise.withResolvers<void>();
    mute.listen(join(dir, "mute.sock"), () => ready.resolve());
    await ready.promise;
    try {
      const ctr = [program(t.cast.client, "ctr"), "--address", join(dir, "mute.sock"), "--connect-timeout", "700ms"];
      const { ms, result } = await timed(async () => exec([...ctr, "version"]));
      expect(result.code).toBe(1);
      expect(ms).toBeGreaterThan(600);
      expect(ms).toBeLessThan(5_000);
    } finally {
      mute.close();
      await rm(dir, { recursive: true, force: true });
    }
  },
);

/** A debug server that answers with the request's own path and query. */
async function echoing(path: string): Promise<AsyncDisposable> {
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? "", "http://debug");
    const query = [...url.searchParams].map(([key, value]) => `${key}=${value}`).toSorted((a, b) => (a < b ? -1 : 1));
    response.end(`${url.pathname} ${query.join(" ")}\n`);
  });
  const ready = Promise.withResolvers<void>();
  server.listen(path, () => ready.resolve());
  await ready.promise;
  return {
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      server.close();
      await rm(path, { force: true });
    },
  };
}

type Ask = (...args: string[]) => Promise<string>;

/** Every kind of profile with its flags (1.6 has no --debug); what a socket is asked for is what comes back. */
async function showProfiles(ask: Ask, formats: boolean): Promise<void> {
  for (const [command, kind] of [
    ["block", "block"],
    ["goroutines", "goroutine"],
    ["heap", "heap"],
    ["threadcreate", "threadcreate"],
  ] as const) {
    expect(await ask(command)).toStartWith(`/debug/pprof/${kind}`);
    if (formats) expect(await ask(command, "--debug", "7")).toBe(`/debug/pprof/${kind} debug=7\n`);
  }
  for (const command of ["profile", "trace"] as const) {
    const asked = await ask(command, "--seconds", "3s", ...(formats ? ["--debug", "7"] : []));
    expect(asked).toStartWith(`/debug/pprof/${command} ${formats ? "debug=7 " : ""}`);
    expect(asked).toMatch(/seconds=3(s|\b)/);
  }
}

row(
  "A26",
  "pprof asks the debug socket for each kind of profile, as its flags say",
  {
    covers: [
      "flag:ctr pprof --debug-socket",
      "cmd:ctr pprof block",
      "flag:ctr pprof block --debug",
      "cmd:ctr pprof goroutines",
      "flag:ctr pprof goroutines --debug",
      "cmd:ctr pprof heap",
      "flag:ctr pprof heap --debug",
      "cmd:ctr pprof profile",
      "flag:ctr pprof profile --seconds",
      "flag:ctr pprof profile --debug",
      "cmd:ctr pprof threadcreate",
      "flag:ctr pprof threadcreate --debug",
      "cmd:ctr pprof trace",
      "flag:ctr pprof trace --seconds",
      "flag:ctr pprof trace --debug",
    ],
    casts: ["peer", "ours"],
  },
  async (t) => {
    const socket = t.path("echo.sock");
    await using _server = await echoing(socket);
    await showProfiles(async (...args) => t.must("pprof", "--debug-socket", socket, ...args), t.cast.client === "ours");
  },
);

row(
  "A26",
  "shim pprof asks the shim's debug socket for each kind of profile, as its flags say",
  {
    ...newer("ctr shim pprof"),
    casts: ["ours"],
    covers: [
      "flag:ctr shim pprof block --debug",
      "flag:ctr shim pprof goroutines --debug",
      "flag:ctr shim pprof profile --debug",
      "flag:ctr shim pprof threadcreate --debug",
      "flag:ctr shim pprof trace --seconds",
      "flag:ctr shim pprof trace --debug",
    ],
  },
  async (t) => {
    // Named as the shim names it: by daemon, namespace and id.
    const name = createHash("sha256")
      .update(join(t.daemon.address, t.namespace, "c", "debug"))
      .digest("hex");
    await mkdir(t.path("sockets"), { recursive: true });
    await using _server = await echoing(t.path(`sockets/${name}`));
    const shim = ["shim", "--id", "c", "--shim-address", t.path("sockets/shim.sock")];
    await showProfiles(async (...args) => t.must(...shim, "pprof", ...args), true);
  },
);

row(
  "N16",
  "info is what the introspection service says of the server",
  { ...newer("ctr info"), covers: ["cmd:ctr info"] },
  async (t) => {
    const info: unknown = JSON.parse(await t.must("info"));
    expect(info).toMatchObject({ server: { pid: t.daemon.pid } });
    const uuid = /UUID: +(\S+)/.exec(await t.must("version"))?.[1];
    expect(info).toHaveProperty("server.uuid", uuid);
  },
);

row(
  "G36",
  "oci spec is for a platform",
  { ...newer("ctr oci spec"), covers: ["flag:ctr oci spec --platform"] },
  async (t) => {
    const usual = await t.must("oci", "spec");
    expect(await t.must("oci", "spec", "--platform", "linux/arm64")).toBe(usual);
    const other = await t.ctr("oci", "spec", "--platform", "windows/amd64");
    // Never one platform's spec for another's.
    expect(other.stdout).not.toBe(usual);
    expect(other.stderr).toContain("windows/amd64");
  },
);

async function hook(t: Stage, state: unknown, ...args: string[]) {
  return exec([program(t.cast.daemon, "containerd"), "oci-hook", ...args], {
    stdin: JSON.stringify(state),
    env: { PATH: "/usr/bin:/bin", WHERE: "{{bundle}}" },
  });
}

row(
  "N05",
  "oci-hook becomes the program it is given, with the container's values in its arguments and environment",
  { casts: ["peer", "ours"], covers: ["cmd:containerd oci-hook"] },
  async (t) => {
    const bundle = t.path(t.id("bundle"));
    await mkdir(bundle);
    await writeFile(join(bundle, "config.json"), '{"ociVersion":"1.0.2","root":{"path":"rootfs"}}');
    const state = { ociVersion: "1.0.2", id: "box", status: "created", pid: 77, bundle, annotations: { who: "me" } };
    const script = 'echo "$@" $WHERE';
    const ran = await hook(
      t,
      state,
      "--",
      "/bin/sh",
      "-c",
      script,
      "sh",
      "{{id}}",
      "{{pid}}",
      "{{rootfs}}",
      '{{annotation "who"}}',
    );
    expect(ran).toEqual({ code: 0, stdout: `box 77 ${bundle}/rootfs me ${bundle}\n`, stderr: "" });
  },
);
