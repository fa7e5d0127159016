// The field's walk-throughs, whole: what a reader of the manuals types, in that order.
import { expect } from "bun:test";
import { existsSync } from "node:fs";
import { mkdir, readFile, readlink, rm, writeFile } from "node:fs/promises";
import { createLogger } from "@stevedore/base";
import { createLocalContent } from "@stevedore/plugins/content-local/store";
import { createEventExchange } from "@stevedore/plugins/events/impl";
import { contentService } from "@stevedore/services/content";
import { Content } from "@stevedore/wire/gen/containerd/services/content/v1/content_pb";
import { createGrpcServer } from "@stevedore/wire/grpc/server";
import { Router } from "@stevedore/wire/rpc/index";
import { Daemon, type Maker } from "../harness/daemon.ts";
import { digestOf, IMAGE, ociArchive } from "../harness/images.ts";
import { eventually, exec } from "../harness/process.ts";
import { row, type Stage } from "../harness/row.ts";
import { bundle, frozen, serve, visit } from "../harness/service.ts";

const PATH = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" };

async function stateOf(t: Stage, id: string): Promise<string | undefined> {
  const line = (await t.must("tasks", "ls")).split("\n").find((one) => one.startsWith(`${id} `));
  return line?.trim().split(/\s+/)[2];
}

async function pidOf(t: Stage, id: string): Promise<number> {
  const line = (await t.must("tasks", "ls")).split("\n").find((one) => one.startsWith(`${id} `));
  return Number(line?.trim().split(/\s+/)[1]);
}

async function untilStopped(t: Stage, id: string): Promise<void> {
  await eventually("the task to stop", async () => ((await stateOf(t, id)) === "STOPPED" ? true : undefined));
}

/** The subcommands that a help page lists, by their names without aliases. */
function subcommands(page: string): string[] {
  const lines = page.split("COMMANDS:\n")[1]?.split("\n\n")[0]?.split("\n") ?? [];
  return lines.flatMap((line) => /^ {3}([a-z-]+)/.exec(line)?.[1] ?? []);
}

row("G04", "the image commands", { casts: ["peer", "ours"] }, async (t) => {
  const named = subcommands(await t.must("images", "--help"));
  const wanted = ["check", "export", "import", "list", "mount", "unmount", "pull", "push", "delete", "tag", "label"];
  expect([...wanted, "convert"].filter((name) => !named.includes(name))).toEqual([]);
});

row("G14", "the container commands", { casts: ["peer", "ours"] }, async (t) => {
  for (const name of ["container", "containers", "c"]) {
    const named = subcommands(await t.must(name, "--help"));
    const wanted = ["create", "delete", "info", "list", "label", "checkpoint", "restore"];
    expect(named.filter((one) => one !== "help").toSorted()).toEqual(wanted.toSorted());
  }
});

row("G20", "task start -d returns at once, and without -d it is held with the output", {}, async (t) => {
  const image = await t.image();
  const [held, detached] = [t.id("held"), t.id("detached")];
  await t.must("containers", "create", image, detached, "sleep", "1000");
  expect(await t.must("task", "start", "-d", detached)).toBe("");
  expect(await stateOf(t, detached)).toBe("RUNNING");
  // No "sh -c": the peer takes the -c for its own flag.
  await t.must("containers", "create", image, held, "echo", "to the terminal");
  expect(await t.ctr("task", "start", held)).toEqual({ code: 0, stdout: "to the terminal\n", stderr: "" });
});

row(
  "G24",
  "a service on the host's network is visited from the host",
  { covers: ["flag:ctr run --net-host"] },
  async (t) => {
    const id = t.id("web");
    const port = await serve(t, id);
    expect(await visit(port)).toBe("first\n");
    await t.must("tasks", "exec", "--exec-id", "w", id, "sh", "-c", "echo second > /www/index.html");
    expect(await visit(port)).toBe("second\n");
  },
);

row(
  "G25",
  "a paused service does not answer, its processes are frozen",
  { covers: ["cmd:ctr tasks pause"] },
  async (t) => {
    const id = t.id("web");
    const port = await serve(t, id);
    const pid = await pidOf(t, id);
    expect(await frozen(pid)).toBe(false);
    await t.must("tasks", "pause", id);
    expect(await stateOf(t, id)).toBe("PAUSED");
    expect(await frozen(pid)).toBe(true);
    expect(await visit(port, 500)).toBeUndefined();
    await t.must("tasks", "resume", id);
  },
);

row("G26", "a resumed service answers again", { covers: ["cmd:ctr tasks resume"] }, async (t) => {
  const id = t.id("web");
  const port = await serve(t, id);
  await t.must("tasks", "pause", id);
  const waiting = visit(port, 10_000);
  await Bun.sleep(200);
  await t.must("tasks", "resume", id);
  expect(await stateOf(t, id)).toBe("RUNNING");
  // Whoever asked meanwhile is answered, too.
  expect(await waiting).toBe("first\n");
  expect(await visit(port)).toBe("first\n");
});

row("G28", "the task goes before the container, which stays without it", {}, async (t) => {
  const id = t.id("c");
  await t.must("run", "-d", await t.image(), id, "sleep", "1000");
  const refused = await t.ctr("containers", "rm", id);
  expect(refused.code).toBe(1);
  expect(refused.stderr).toContain("cannot delete a non stopped container");
  expect(await stateOf(t, id)).toBe("RUNNING");
  const running = await t.ctr("tasks", "delete", id);
  expect(running.code).not.toBe(0);
  expect(await stateOf(t, id)).toBe("RUNNING");
  await t.must("tasks", "kill", "-s", "KILL", id);
  await untilStopped(t, id);
  expect((await t.ctr("tasks", "delete", id)).code).toBeOneOf([0, 137]);
  expect(await t.must("tasks", "ls", "-q")).toBe("");
  expect(await t.must("containers", "ls", "-q")).toBe(`${id}\n`);
  await t.must("containers", "rm", id);
  expect(await t.must("containers", "ls", "-q")).toBe("");
});

row(
  "G30",
  "a spec of one's own: by --config alone with an absolute root path, refused beside --rootfs and a path",
  { covers: ["flag:ctr run --config"] },
  async (t) => {
    const id = t.id("redis");
    const folder = await bundle(t, "bundle", ["sleep", "1000"]);
    const refused = await t.ctr("run", "-d", "--config", `${folder}/config.json`, "--rootfs", `${folder}/rootfs`, id);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain("with spec config file, only container id should be provided");
    expect(await t.must("containers", "ls", "-q")).toBe("");
    const text = await readFile(`${folder}/config.json`, "utf8");
    await writeFile(
      `${folder}/config.json`,
      text.replace('"path": "rootfs"', `"path": ${JSON.stringify(`${folder}/rootfs`)}`),
    );
    await t.must("run", "-d", "--config", `${folder}/config.json`, id);
    expect(await stateOf(t, id)).toBe("RUNNING");
    await t.must("tasks", "kill", "-s", "KILL", id);
    await untilStopped(t, id);
  },
);

row(
  "W4",
  "the life of a container, from its help to its end",
  { casts: ["peer", "ours", "our-daemon", "our-ctr"], timeoutMs: 90_000 },
  async (t) => {
    const image = await t.image();
    const [plain, web] = [t.id("nginx1"), t.id("nginx2")];
    expect(subcommands(await t.must("container", "--help"))).toContain("create");
    await t.must("c", "create", image, plain, "sleep", "1000");
    expect(await t.must("c", "ls", "-q")).toBe(`${plain}\n`);
    expect(await t.must("t", "ls", "-q")).toBe("");
    await t.must("task", "start", "-d", plain);
    expect(await t.must("task", "ls", "-q")).toBe(`${plain}\n`);
    const pid = await pidOf(t, plain);
    expect(await t.must("task", "ps", plain)).toMatch(new RegExp(`^${pid}\\s`, "m"));
    expect((await readFile(`/proc/${pid}/cmdline`, "utf8")).replaceAll("\0", " ").trim()).toBe("sleep 1000");
    const port = await serve(t, web);
    const inside = await t.ctr("tasks", "exec", "--exec-id", "1", web, "sh", "-c", "echo nginx2 > /www/index.html");
    expect(inside).toEqual({ code: 0, stdout: "", stderr: "" });
    expect(await visit(port)).toBe("nginx2\n");
    await t.must("tasks", "pause", web);
    expect([await stateOf(t, web), await visit(port, 300)]).toEqual(["PAUSED", undefined]);
    await t.must("tasks", "resume", web);
    expect([await stateOf(t, web), await visit(port)]).toEqual(["RUNNING", "nginx2\n"]);
    await t.must("tasks", "kill", "-s", "KILL", web);
    await untilStopped(t, web);
    expect((await t.ctr("tasks", "delete", web)).code).toBeOneOf([0, 137]);
    expect((await t.must("containers", "ls", "-q")).split("\n")).toContain(web);
    await t.must("container", "delete", web);
    expect(await t.must("containers", "ls", "-q")).toBe(`${plain}\n`);
    await t.must("tasks", "kill", "-s", "KILL", plain);
    await untilStopped(t, plain);
  },
);

row("W9", "two containers in one pid namespace see each other", {}, async (t) => {
  const image = await t.image();
  const [first, second] = [t.id("busybox3"), t.id("busybox4")];
  await t.must("run", "-d", image, first, "sleep", "1111");
  const pid = await pidOf(t, first);
  await t.must("containers", "create", "--with-ns", `pid:/proc/${pid}/ns/pid`, image, second, "sleep", "2222");
  await t.must("tasks", "start", "-d", second);
  for (const id of [first, second]) {
    const seen = await t.must("tasks", "exec", "--exec-id", `ps-${id}`, id, "ps");
    expect(`${id}: ${seen}`).toMatch(/sleep 1111[^]*sleep 2222/);
  }
  expect(await readlink(`/proc/${await pidOf(t, second)}/ns/pid`)).toBe(await readlink(`/proc/${pid}/ns/pid`));
  for (const id of [second, first]) await t.must("tasks", "rm", "--force", id);
});

row("W12", "the runtime alone: spec, run, list, kill, delete", { casts: ["peer"] }, async (t) => {
  const folder = await bundle(t, "runc", ["sleep", "1000"]);
  const root = t.path(t.id("state"));
  const runc = async (...args: string[]): Promise<string> => {
    const ran = await exec(["runc", "--root", root, ...args], { cwd: folder, env: PATH });
    if (ran.code !== 0) throw new Error(`runc ${args.join(" ")}: ${ran.stderr}`);
    return ran.stdout;
  };
  const id = t.id("only");
  await runc("run", "--detach", id);
  expect(await runc("list", "-q")).toBe(`${id}\n`);
  expect(JSON.parse(await runc("state", id))).toMatchObject({ id, status: "running" });
  await runc("kill", id, "KILL");
  await eventually("the container to stop", async () =>
    /"status": "stopped"/.test(await runc("state", id)) ? true : undefined,
  );
  await runc("delete", id);
  expect(await runc("list", "-q")).toBe("");
  await rm(root, { recursive: true, force: true });
});

// The same, with what our daemon and shim made: the runtime's own commands agree with ours about it.
row("W12", "the runtime's commands know our containers", { casts: ["peer", "ours"] }, async (t) => {
  const id = t.id("c");
  await t.must("run", "-d", await t.image(), id, "sleep", "1000");
  const runc = async (...args: string[]): Promise<string> => {
    const ran = await exec(["runc", "--root", `/run/containerd/runc/${t.namespace}`, ...args], { env: PATH });
    return ran.stdout;
  };
  expect(await runc("list", "-q")).toBe(`${id}\n`);
  const state: unknown = JSON.parse(await runc("state", id));
  expect(state).toMatchObject({ id, status: "running", pid: await pidOf(t, id) });
  expect(state).toHaveProperty("bundle", `${t.daemon.state}/io.containerd.runtime.v2.task/${t.namespace}/${id}`);
  await runc("pause", id);
  expect(JSON.parse(await runc("state", id))).toMatchObject({ status: "paused" });
  await runc("resume", id);
  await runc("kill", id, "KILL");
  await untilStopped(t, id);
  expect((await t.ctr("tasks", "delete", id)).code).toBeOneOf([0, 137]);
  expect(await runc("list", "-q")).toBe("");
});

row(
  "N01",
  "the Go client of the field works on the low-level services, whoever serves them",
  { casts: ["peer", "our-daemon"] },
  async (t) => {
    const image = await t.image();
    const id = t.id("c");
    const [digest = ""] = (await t.must("content", "ls", "-q")).trim().split("\n");
    await t.must("content", "label", digest, "seen=yes");
    await t.must("images", "label", image, "seen=yes");
    await t.must("leases", "create", "--id", t.id("lease"), "seen=yes");
    await t.must("containers", "create", image, id, "sleep", "1000");
    await t.must("tasks", "start", "-d", id);
    const lists = await Promise.all(
      [
        ["content", "ls"],
        ["images", "ls"],
        ["leases", "ls"],
        ["containers", "ls"],
        ["tasks", "ls"],
        ["snapshots", "ls"],
        ["plugins", "ls"],
      ].map(async (list) => t.must(...list)),
    );
    const wanted = [digest, image, t.id("lease"), id, id, id, "io.containerd.grpc.v1"];
    expect(lists.map((list, at) => list.includes(wanted[at] ?? "?"))).toEqual(wanted.map(() => true));
    await t.must("leases", "delete", t.id("lease"));
    await t.must("tasks", "kill", "-s", "KILL", id);
    await untilStopped(t, id);
  },
);

const DISABLED = '["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.native", "io.containerd.grpc.v1.leases"]';
const WITHOUT_LEASES: Readonly<Record<Maker, string>> = {
  debian: `version = 2\ndisabled_plugins = ${DISABLED}\n[plugins."io.containerd.internal.v1.opt"]\n  path = "@dir@/opt"\n`,
  ours: `version = 3\ndisabled_plugins = ${DISABLED}\n[plugins."io.containerd.internal.v1.opt"]\n  path = "@dir@/opt"\n`,
};

row(
  "O02",
  "what the configuration disables is gone, and all the rest starts",
  { casts: ["peer", "ours"] },
  async (t) => {
    await using daemon = await Daemon.start({ maker: t.cast.daemon, wholeConfig: WITHOUT_LEASES[t.cast.daemon] });
    const ctr = async (...args: string[]) => daemon.ctr(t.cast.client, "default", args);
    const { stdout: plugins } = await ctr("plugins", "ls");
    expect(plugins).not.toMatch(/snapshotter\.v1\s+native/);
    expect(plugins).toMatch(/snapshotter\.v1\s+overlayfs\s+\S+\s+ok/);
    const leases = await ctr("leases", "ls");
    expect([leases.code, leases.stderr]).toEqual([
      1,
      "ctr: failed to list leases: unknown service containerd.services.leases.v1.Leases: not implemented\n",
    ]);
    expect((await ctr("snapshots", "--snapshotter", "native", "ls")).code).toBe(1);
    for (const list of ["images", "containers"]) expect((await ctr(list, "ls", "-q")).code).toBe(0);
  },
);

const FAR_CONTENT: Readonly<Record<Maker, (address: string) => string>> = {
  debian: (address) =>
    `version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.content.v1.content"]\n${farContent(address)}`,
  ours: (address) => `version = 3\ndisabled_plugins = ["io.containerd.content.v1.content"]\n${farContent(address)}`,
};

function farContent(address: string): string {
  const opt = '[plugins."io.containerd.internal.v1.opt"]\n  path = "@dir@/opt"\n';
  // What no image needs would be gone between two commands.
  const gc = '[plugins."io.containerd.gc.v1.scheduler"]\n  startup_delay = "1h"\n  mutation_threshold = 0\n';
  return `${opt}${gc}[proxy_plugins.far]\n  type = "content"\n  address = ${JSON.stringify(address)}\n`;
}

/** A content store of this process on a socket, as somebody's plugin would be: no namespaces, no leases, only blobs. */
async function farStore(folder: string): Promise<AsyncDisposable & { readonly address: string }> {
  const address = `${folder}/content.sock`;
  await mkdir(folder);
  const content = await createLocalContent({ directory: folder });
  const events = createEventExchange({ eventField: () => undefined, log: createLogger() });
  // Events belong to a namespace, which not everybody who calls names.
  events.publish = async () => undefined;
  const router = new Router().service(Content, contentService({ content, events }));
  const server = createGrpcServer({ router });
  await server.serveUnix(address);
  return { address, [Symbol.asyncDispose]: async () => server.stop() };
}

row("O05", "content in another process: written, read, and all of an image", { casts: ["peer", "ours"] }, async (t) => {
  const folder = t.path(t.id("far"));
  await using far = await farStore(folder);
  const wholeConfig = FAR_CONTENT[t.cast.daemon](far.address);
  await using daemon = await Daemon.start({ maker: t.cast.daemon, wholeConfig });
  const ctr = async (stdin: string, ...args: string[]) => daemon.ctr(t.cast.client, "default", args, { stdin });
  const plugins = (await ctr("", "plugins", "ls")).stdout;
  expect(plugins).toMatch(/content\.v1\s+far\s/);
  expect(plugins).not.toMatch(/content\.v1\s+content\s/);
  const digest = digestOf(Buffer.from("far away"));
  expect(await ctr("far away", "content", "ingest", "--expected-digest", digest, "r")).toMatchObject({ code: 0 });
  expect(await ctr("", "content", "get", digest)).toMatchObject({ code: 0, stdout: "far away" });
  // It lies there, and nowhere here.
  expect(await readFile(`${folder}/blobs/${digest.replace(":", "/")}`, "utf8")).toBe("far away");
  expect(existsSync(`${daemon.root}/io.containerd.content.v1.content/blobs/${digest.replace(":", "/")}`)).toBe(false);
  const archive = t.path(t.id("far.tar"));
  await writeFile(archive, await ociArchive({}));
  expect(await ctr("", "images", "import", archive)).toMatchObject({ code: 0 });
  const ran = await ctr("", "run", "--rm", IMAGE, t.id("c"), "echo", "from afar");
  expect(ran).toEqual({ code: 0, stdout: "from afar\n", stderr: "" });
  expect(await ctr("", "content", "rm", digest)).toMatchObject({ code: 0 });
  expect((await ctr("", "content", "get", digest)).stderr).toContain("not found");
});
