// The shim beside its daemon: what is in a bundle, which calls one life of a container takes, and what the shim reports.
import { expect } from "bun:test";
import { existsSync } from "node:fs";
import { chmod, lstat, readdir, readFile, readlink, writeFile } from "node:fs/promises";
import { connect, createServer, type Socket } from "node:net";
import { FrameDecoder, FrameType } from "@stevedore/ttrpc/frame";
import { decodeRequest } from "@stevedore/ttrpc/request";
import { program } from "../harness/daemon.ts";
import { eventually } from "../harness/process.ts";
import { type CastName, row, type Stage } from "../harness/row.ts";

const ALL: readonly CastName[] = ["peer", "ours", "our-daemon", "our-ctr", "our-shim", "their-shim"];
const ENDS: readonly CastName[] = ["peer", "ours", "our-shim", "their-shim"];

async function taskOf(t: Stage, id: string): Promise<{ pid: number; status: string }> {
  const line = (await t.must("tasks", "ls")).split("\n").find((one) => one.startsWith(`${id} `));
  const [, pid = "0", status = "gone"] = line?.trim().split(/\s+/) ?? [];
  return { pid: Number(pid), status };
}

async function killed(t: Stage, id: string): Promise<void> {
  await t.must("tasks", "kill", "-s", "KILL", id);
  await eventually("the task to stop", async () => ((await taskOf(t, id)).status === "STOPPED" ? true : undefined));
}

const bundleOf = (t: Stage, id: string): string =>
  `${t.daemon.state}/io.containerd.runtime.v2.task/${t.namespace}/${id}`;

/** The payloads of events with a topic, as `ctr events` prints them. */
function eventsIn(printed: string, topic: string): Record<string, unknown>[] {
  return printed.split("\n").flatMap((line) => {
    const at = line.indexOf(` ${topic} {`);
    if (at < 0) return [];
    const payload: unknown = JSON.parse(line.slice(line.indexOf("{", at)));
    return typeof payload === "object" && payload !== null ? [{ ...payload }] : [];
  });
}

row(
  "F21",
  "the shim is the container's parent, and tells the daemon how its processes end",
  { casts: ALL },
  async (t) => {
    const id = t.id("c");
    const image = await t.image();
    const events = t.start("events");
    await Bun.sleep(400);
    // It ends well after the exec has: the end of init would take the exec with it.
    await t.must("run", "-d", image, id, "sh", "-c", "while [ ! -e /go ]; do sleep 0.1; done; sleep 1; exit 17");
    const { pid } = await taskOf(t, id);
    const parent = /^PPid:\s+(\d+)/m.exec(await readFile(`/proc/${pid}/status`, "utf8"))?.[1];
    expect(await readFile(`/proc/${parent}/cmdline`, "utf8")).toContain("containerd-shim-runc-v2");
    expect((await t.ctr("tasks", "exec", "--exec-id", "e", id, "sh", "-c", "touch /go; exit 4")).code).toBe(4);
    const exits = await eventually("both exits", () => {
      const found = eventsIn(events.stdout(), "/tasks/exit").filter((event) => event["container_id"] === id);
      return found.length === 2 ? found : undefined;
    });
    const of = (process: string) => exits.find((event) => event["id"] === process);
    expect(of("e")).toMatchObject({ container_id: id, id: "e", exit_status: 4 });
    const execPid = eventsIn(events.stdout(), "/tasks/exec-started").find((event) => event["exec_id"] === "e")?.["pid"];
    expect(of("e")).toHaveProperty("pid", execPid);
    expect(of(id)).toMatchObject({ container_id: id, id, pid, exit_status: 17 });
    expect(of(id)).toHaveProperty("exited_at");
    await events.stop();
    await eventually("the task to stop", async () => ((await taskOf(t, id)).status === "STOPPED" ? true : undefined));
    await t.ctr("tasks", "rm", id);
  },
);

/** A bundle's files with kind and mode. */
async function filesOf(bundle: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const name of await readdir(bundle)) {
    const stat = await lstat(`${bundle}/${name}`);
    const kind = stat.isFIFO() ? "fifo" : stat.isDirectory() ? "folder" : stat.isSymbolicLink() ? "link" : "file";
    // The mode of a mounted root is the image's.
    found[name] = name === "rootfs" || kind === "link" ? kind : `${kind} ${(stat.mode & 0o777).toString(8)}`;
  }
  return found;
}

/** What shim and runc make, in every version. */
const COMMON_FILES = {
  "config.json": "file 644",
  "init.pid": "file 644",
  log: "fifo 700",
  "log.json": "file 644",
  "options.json": "file 600",
  rootfs: "folder",
  runtime: "file 600",
  "shim-binary-path": "file 600",
  work: "link",
};

/** Version 1.6 keeps the shim's address in one file, 2.3 (its recorded bundle) in another with the protocol's version. */
const FILES: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  peer: { ...COMMON_FILES, address: "file 644" },
  "our-shim": { ...COMMON_FILES, address: "file 644" },
  ours: { ...COMMON_FILES, "bootstrap.json": "file 644", journal: "file 600", s: "link", shared: "file 600" },
  "their-shim": { ...COMMON_FILES, address: "file 644", "bootstrap.json": "file 644" },
};

row("F29", "the files of a running container's bundle, which goes with the task", { casts: ENDS }, async (t) => {
  const id = t.id("c");
  await t.must("run", "-d", await t.image(), id, "sleep", "1000");
  const bundle = bundleOf(t, id);
  const text = async (name: string): Promise<string> => readFile(`${bundle}/${name}`, "utf8");
  expect(await filesOf(bundle)).toEqual(FILES[t.castName] ?? {});
  expect((await lstat(bundle)).mode & 0o777).toBe(0o700);
  expect(await text("init.pid")).toBe(String((await taskOf(t, id)).pid));
  expect(await text("options.json")).toBe("{}");
  expect(await text("runtime")).toBe("");
  expect(await text("shim-binary-path")).toBe(t.path("bin/containerd-shim-runc-v2"));
  expect(await readlink(`${bundle}/work`)).toBe(`${t.daemon.root}/io.containerd.runtime.v2.task/${t.namespace}/${id}`);
  if (t.cast.daemon === "ours") {
    expect(JSON.parse(await text("bootstrap.json"))).toEqual({
      version: t.cast.shim === "ours" ? 3 : 2,
      address: /unix:\/\/\/run\/containerd\/s\/[0-9a-f]{64}/.exec(await text("bootstrap.json"))?.[0],
      protocol: "ttrpc",
    });
  }
  if (t.castName !== "ours") expect(await text("address")).toMatch(/^unix:\/\/\/run\/containerd\/s\/[0-9a-f]{64}$/);
  await killed(t, id);
  await t.ctr("tasks", "rm", id);
  expect(existsSync(bundle)).toBe(false);
});

row("F29", "options.json and runtime hold what the container asked of the runtime", { casts: ENDS }, async (t) => {
  const [id, binary] = [t.id("c"), t.path(t.id("runtime"))];
  await writeFile(binary, '#!/bin/sh\nexec /usr/sbin/runc "$@"\n');
  await chmod(binary, 0o755);
  await t.must("run", "-d", "--runc-binary", binary, await t.image(), id, "sleep", "1000");
  const bundle = bundleOf(t, id);
  expect(JSON.parse(await readFile(`${bundle}/options.json`, "utf8"))).toMatchObject({ binary_name: binary });
  expect(await readFile(`${bundle}/runtime`, "utf8")).toBe(binary);
  await killed(t, id);
  await t.ctr("tasks", "rm", id);
});

/** A socket before a shim's, that notes the method of every request. The shim's own address is read from a file when it is needed. */
async function tracing(socket: string, addressFile: string) {
  const methods: string[] = [];
  const follow = async (client: Socket): Promise<void> => {
    const decoder = new FrameDecoder({
      frame: ({ type, payload }) => {
        if (type === FrameType.request) methods.push(decodeRequest(payload).method);
      },
      oversized: () => undefined,
    });
    const shim = connect((await readFile(addressFile, "utf8")).trim().replace("unix://", ""));
    client.on("data", (chunk) => {
      decoder.push(typeof chunk === "string" ? Buffer.from(chunk) : chunk);
      shim.write(chunk);
    });
    shim.on("data", (chunk) => client.write(chunk));
    for (const [one, other] of [
      [client, shim],
      [shim, client],
    ] as const) {
      one.on("error", () => other.destroy());
      one.on("close", () => other.destroy());
    }
    client.resume();
  };
  const server = createServer({ pauseOnConnect: true }, (client) => {
    follow(client).catch(() => client.destroy());
  });
  await new Promise<void>((done) => {
    server.listen(socket, done);
  });
  return { methods, close: () => server.close() };
}

row("F30", "the calls to a shim in a container's life, in order", { casts: ENDS }, async (t) => {
  const [socket, real, id] = [t.path(t.id("s")), t.path(t.id("real")), t.id("c")];
  const shim = program(t.cast.shim, "containerd-shim-runc-v2");
  // Found by the runtime's name in the daemon's PATH; its start answers with our socket in place of the shim's.
  const wrapper = t.path(`bin/containerd-shim-${t.id("traced").replaceAll("-", "")}-v2`);
  await writeFile(
    wrapper,
    `#!/bin/sh
for verb; do :; done
[ "$verb" = start ] || exec ${shim} "$@"
${shim} "$@" </dev/null >${real} || { cat ${real}; exit 1; }
printf 'unix://${socket}'
`,
  );
  await chmod(wrapper, 0o755);
  const trace = await tracing(socket, real);
  try {
    const runtime = `io.containerd.${t.id("traced").replaceAll("-", "")}.v2`;
    await t.must("run", "-d", "--runtime", runtime, await t.image(), id, "sleep", "1000");
    expect((await t.ctr("tasks", "exec", "--exec-id", "e", id, "true")).code).toBe(0);
    await t.must("tasks", "ps", id);
    await t.must("tasks", "metrics", id);
    await t.must("tasks", "pause", id);
    await t.must("tasks", "resume", id);
    await killed(t, id);
    await t.ctr("tasks", "rm", id);
    // Questions come when clients ask them; what changes something comes in this order.
    const changing = trace.methods.filter((method) => !["State", "Wait", "Connect", "CloseIO"].includes(method));
    expect(changing).toEqual([
      "Create",
      "Start",
      "Exec",
      "Start",
      "Delete",
      "Pids",
      "Stats",
      "Pause",
      "Resume",
      "Kill",
      "Delete",
      "Shutdown",
    ]);
    expect(trace.methods).toContain("State");
    expect(trace.methods).toContain("Wait");
  } finally {
    trace.close();
  }
});
