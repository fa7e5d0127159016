// Runtimes other than runc's shim: how names and paths are resolved, shims that others wrote with either bootstrap, what reaches them of a runtime's
// options, and what each of runc's own options changes.
import { expect } from "bun:test";

import { existsSync } from "node:fs";
import { chmod, copyFile, mkdir, readFile, readlink, rmdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { backgroundContext } from "@stevedore/base";
import { defaultMatcher } from "@stevedore/oci/platform";
import { connectClient } from "@stevedore/sdk/connect";
import { createContainer } from "@stevedore/sdk/local/new-container";
import { NULL_IO } from "@stevedore/sdk/local/task-streams";
import { defaultDeviceRules, defaultSpec } from "@stevedore/sdk/spec/default-spec";
import { withDeviceRules, withImageProcess } from "@stevedore/sdk/spec/options";
import { OptionsSchema } from "@stevedore/wire/gen/containerd/runc/v1/options_pb";
import { type Guard, isNumber, isString, listOf, maybe, shapeOf } from "../../tools/json.ts";
import { repository } from "../harness/daemon.ts";
import { eventually } from "../harness/process.ts";
import { row, type Stage } from "../harness/row.ts";

/** Both daemons, each with both clients. */
const ALL = { casts: ["peer", "ours", "our-daemon", "our-ctr"] } as const;

type Form = "older" | "params";

/** Puts the generic shim where the daemon looks, as `containerd-shim-<name>-v1`. @returns the path of its log */
async function install(t: Stage, name: string, form: Form): Promise<string> {
  const log = t.path(`${name}.log`);
  await writeFile(log, "");
  const script = join(repository, "tests/harness/generic-shim.ts");
  const path = t.path(`bin/containerd-shim-${name}-v1`);
  const run = `exec ${process.execPath} ${script} "$@"`;
  await writeFile(path, `#!/bin/sh\nexport GENERIC_SHIM_FORM=${form} GENERIC_SHIM_LOG=${log}\n${run}\n`, {
    mode: 0o755,
  });
  return log;
}

const isAny = shapeOf({ typeUrl: maybe(isString), value: maybe(isString) });
const isNoted = shapeOf({
  what: isString,
  options: maybe(isAny),
  params: maybe(shapeOf({ extensions: listOf(isAny) })),
  signal: maybe(isNumber),
});
type Noted = typeof isNoted extends Guard<infer T> ? T : never;

/** What a shim was told, in order. */
async function noted(log: string): Promise<readonly Noted[]> {
  const lines = (await readFile(log, "utf8")).split("\n").filter((line) => line !== "");
  return lines.map((line) => {
    const read: unknown = JSON.parse(line);
    if (!isNoted(read)) throw new Error(`not a line of the shim's: ${line}`);
    return read;
  });
}

async function of(log: string, what: string): Promise<Noted | undefined> {
  return (await noted(log)).find((one) => one.what === what);
}

/** containerd 1.6 looks for a cgroup of each task's first process, which a plain process of the host does not have. */
const OUR_DAEMON = { casts: ["ours", "our-daemon"], source: "containerd 2.3.4, shim-invocations.jsonl" } as const;

for (const form of ["older", "params"] as const) {
  row("F15", `a shim that others wrote runs a container (${form} bootstrap)`, OUR_DAEMON, async (t) => {
    const log = await install(t, form, form);
    const runtime = ["--runtime", `io.containerd.${form}.v1`];
    const [image, id] = [await t.image(), t.id("c")];
    const ran = await t.ctr("run", "--rm", ...runtime, image, t.id("once"), "sh", "-c", "echo from outside; exit 5");
    expect(ran).toMatchObject({ code: 5, stdout: "from outside\n" });
    await t.must("run", "-d", "--null-io", ...runtime, image, id, "sleep", "1000");
    expect(await t.must("containers", "ls")).toMatch(RegExp(`^${id}\\s.*io\\.containerd\\.${form}\\.v1`, "m"));
    expect(await t.must("tasks", "ls")).toMatch(RegExp(`^${id}\\s+\\d+\\s+RUNNING`, "m"));
    // What the shim does not have is told as that.
    const exec = await t.ctr("tasks", "exec", "--exec-id", "e", id, "true");
    expect(exec.code).toBe(1);
    expect(exec.stderr).toContain("not implemented");
    await t.must("tasks", "kill", "-s", "KILL", id);
    await eventually("the task to stop", async () => (/STOPPED/.test(await t.must("tasks", "ls")) ? true : undefined));
    await t.must("tasks", "rm", id);
    await t.must("containers", "rm", id);
    const whats = (await noted(log)).map(({ what }) => what);
    expect(whats.filter((what) => what === "start")).toHaveLength(2);
    expect(whats.filter((what) => what === "shutdown")).toHaveLength(2);
    expect((await of(log, "kill"))?.signal).toBe(9);
  });
}

row("F25", "a runtime's name makes the shim's; an absolute path is taken as it is", OUR_DAEMON, async (t) => {
  const image = await t.image();
  const log = await install(t, "named", "older");
  const path = t.path("elsewhere");
  await copyFile(t.path("bin/containerd-shim-named-v1"), path);
  await chmod(path, 0o755);
  // The last two words count, whatever stands before them.
  for (const runtime of ["io.containerd.named.v1", "org.example.deep.down.named.v1", path])
    expect(await t.ctr("run", "--rm", "--runtime", runtime, image, t.id("c"), "true")).toMatchObject({ code: 0 });
  expect((await noted(log)).filter(({ what }) => what === "start")).toHaveLength(3);
});

row("F25", "a runtime that cannot be found is refused in words, and nothing is left", ALL, async (t) => {
  const image = await t.image();
  const wrong = "correct runtime name should be either format like `io.containerd.runc.v";
  const refusals: (readonly [string, string])[] = [
    [
      "io.containerd.absent.v9",
      'runtime "io.containerd.absent.v9" binary not installed "containerd-shim-absent-v9": file does not exist',
    ],
    ["/nowhere/shim", "invalid custom binary path: stat /nowhere/shim: no such file or directory"],
  ];
  // containerd 1.6 goes on with a name that makes no shim's.
  if (t.cast.daemon === "ours")
    refusals.push(
      ["./relative/shim", `invalid runtime name ./relative/shim, ${wrong}`],
      ["short", `invalid runtime name short, ${wrong}`],
    );
  for (const [runtime, why] of refusals) {
    const ran = await t.ctr("run", "--rm", "--runtime", runtime, image, t.id("c"), "true");
    expect(ran.code).toBe(1);
    expect(ran.stderr).toContain(why);
  }
  expect(await t.must("tasks", "ls", "-q")).toBe("");
  expect(await t.must("containers", "ls", "-q")).toBe("");
});

// containerd 1.6 still looks for the shim of 1.0, in its own words.
const NO_V1 = { casts: ["ours", "our-daemon"], source: "containerd 2.3.4, core/runtime/v2" } as const;

row("F24", "a runtime of containerd 1.0 is told to be missing by its shim's name", NO_V1, async (t) => {
  const runtime = ["--runtime", "io.containerd.runtime.v1.linux"];
  const ran = await t.ctr("run", "--rm", ...runtime, await t.image(), t.id("c"), "true");
  expect(ran.code).toBe(1);
  expect(ran.stderr).toContain('binary not installed "containerd-shim-v1-linux": file does not exist');
});

row("F24", "the RUNTIME column names the runtime a container was made with", ALL, async (t) => {
  const image = await t.image();
  await t.must("containers", "create", image, t.id("usual"), "true");
  await t.must("containers", "create", "--runtime", "io.containerd.kata.v2", image, t.id("other"), "true");
  const listed = await t.must("containers", "ls");
  expect(listed).toMatch(RegExp(`^${t.id("usual")}\\s+\\S+\\s+io\\.containerd\\.runc\\.v2`, "m"));
  expect(listed).toMatch(RegExp(`^${t.id("other")}\\s+\\S+\\s+io\\.containerd\\.kata\\.v2`, "m"));
});

/** runtimeoptions.v1.Options with a config_path (field 2), as base64. */
const configPath = (path: string): string =>
  Buffer.concat([Buffer.from([0x12, path.length]), Buffer.from(path)]).toString("base64");

for (const form of ["older", "params"] as const) {
  row(
    "F15",
    `--runtime-config-path reaches the shim before it starts and with the task (${form} bootstrap)`,
    OUR_DAEMON,
    async (t) => {
      const log = await install(t, form, form);
      const flags = ["--runtime", `io.containerd.${form}.v1`, "--runtime-config-path", "/etc/generic.toml"];
      expect(await t.ctr("run", "--rm", ...flags, await t.image(), t.id("c"), "true")).toMatchObject({
        code: 0,
        stderr: "",
      });
      const told = await of(log, "start");
      const given = form === "params" ? told?.params?.extensions[0] : told?.options;
      expect(given?.typeUrl).toEndWith("runtimeoptions.v1.Options");
      expect(given?.value).toBe(configPath("/etc/generic.toml"));
      expect((await of(log, "create"))?.options?.value).toBe(configPath("/etc/generic.toml"));
    },
  );
}

row(
  "F15",
  "inspect-runtime asks the shim that a name or a path leads to, with its options",
  {
    casts: ["ours"],
    source: "containerd 2.3.4, ctr plugins inspect-runtime and shim-invocations.jsonl",
    covers: [
      "cmd:ctr plugins inspect-runtime",
      "flag:ctr plugins inspect-runtime --runtime",
      "flag:ctr plugins inspect-runtime --runtime-config-path",
      "flag:ctr plugins inspect-runtime --runc-binary",
      "flag:ctr plugins inspect-runtime --runc-root",
      "flag:ctr plugins inspect-runtime --runc-systemd-cgroup",
    ],
  },
  async (t) => {
    const log = await install(t, "told", "params");
    const inspect = async (...flags: string[]): Promise<unknown> =>
      JSON.parse(await t.must("plugins", "inspect-runtime", ...flags));
    const flags = ["--runtime-config-path", "/etc/generic.toml"];
    for (const runtime of ["io.containerd.told.v1", t.path("bin/containerd-shim-told-v1")]) {
      expect(await inspect("--runtime", runtime, ...flags)).toMatchObject({
        Name: "io.containerd.generic.v1",
        Version: { Version: "7.1", Revision: "abc" },
        Options: { config_path: "/etc/generic.toml" },
        Features: null,
        Annotations: { "org.example.kind": "plain processes" },
      });
    }
    expect((await of(log, "info"))?.options?.value).toBe(configPath("/etc/generic.toml"));
    const runc = ["--runc-binary", "/usr/sbin/runc", "--runc-root", "/run/mine", "--runc-systemd-cgroup"];
    expect(await inspect(...runc)).toMatchObject({
      Name: "io.containerd.runc.v2",
      Options: { binary_name: "/usr/sbin/runc", root: "/run/mine", systemd_cgroup: true },
      Features: { linux: { cgroup: { systemd: true } } },
    });
    const both = await t.ctr("plugins", "inspect-runtime", ...flags, "--runc-root", "/run/mine");
    expect(both.code).toBe(1);
  },
);

/** A runc that notes its arguments and environment before it is runc. @returns its path and that of its notes */
async function wrapper(t: Stage): Promise<{ readonly binary: string; readonly calls: string }> {
  const [binary, calls] = [t.path(t.id("runc")), t.path(t.id("calls"))];
  await writeFile(binary, `#!/bin/sh\necho "$*" >>${calls}\nexec /usr/sbin/runc "$@"\n`, { mode: 0o755 });
  return { binary, calls };
}

type OptionFields = MessageInitShape<typeof OptionsSchema>;

/** Runs a container with options of runc that no flag of ctr sets; it is gone afterwards. @returns what `use` made of it while it ran */
async function withOptions<T>(
  t: Stage,
  fields: OptionFields,
  use: (id: string, pid: number) => Promise<T>,
): Promise<T> {
  const [image, id] = [await t.image(), t.id("o")];
  const context = backgroundContext({ namespace: t.namespace });
  await using client = connectClient({ address: t.daemon.address });
  const made = await createContainer(client, context, {
    id,
    image: { name: image, matcher: defaultMatcher() },
    snapshotter: "",
    labels: {},
    runtime: {
      name: "io.containerd.runc.v2",
      options: {
        typeUrl: "containerd.runc.v1.Options",
        value: toBinary(OptionsSchema, create(OptionsSchema, fields)),
      },
    },
    spec: async ({ image: config }) => {
      const spec = withDeviceRules(defaultSpec({ id, namespace: t.namespace }), defaultDeviceRules());
      const of = { env: config?.config?.Env ?? [], entrypoint: [], cmd: [], workingDir: "" };
      return withImageProcess(spec, of, ["sleep", "1000"]);
    },
  });
  const process = { containerId: id, execId: "" };
  await client.tasks.create(context, { containerId: id, rootfs: made.mounts, io: NULL_IO, runtimePath: "" });
  try {
    const { pid } = await client.tasks.start(context, process);
    return await use(id, pid);
  } finally {
    const ended = client.tasks.wait(context, process);
    await client.tasks.kill(context, process, { number: 9, all: true });
    await ended;
    await client.tasks.delete(context, process);
    await client.containers.delete(context, id);
    await client.snapshotter("").remove(context, id);
  }
}

/** Our client, with either daemon and its own shim. */
const OPTIONS = { casts: ["ours", "our-ctr"] } as const;

row(
  "F01",
  "runc's options: no_pivot_root, no_new_keyring, binary_name and root are arguments of each call",
  OPTIONS,
  async (t) => {
    const { binary, calls } = await wrapper(t);
    const root = t.path(t.id("root"));
    await withOptions(t, { binaryName: binary, root, noPivotRoot: true, noNewKeyring: true }, async (id) => {
      expect(existsSync(join(root, t.namespace, id, "state.json"))).toBe(true);
    });
    const made = (await readFile(calls, "utf8")).split("\n").filter((line) => / create /.test(line));
    expect(made).toHaveLength(1);
    expect(made[0]).toContain(`--root ${root}/${t.namespace} `);
    expect(made[0]).toContain(" --no-pivot ");
    expect(made[0]).toContain(" --no-new-keyring ");
    expect(made[0]).not.toContain("--systemd-cgroup");
    expect(existsSync(join(root, t.namespace, t.id("o")))).toBe(false);
  },
);

row(
  "F01",
  "runc's options: systemd_cgroup asks for systemd's driver, and what comes of that is told",
  OPTIONS,
  async (t) => {
    const { binary, calls } = await wrapper(t);
    // The spec names no slice, so that runc refuses it whether or not systemd runs here.
    const tried = withOptions(t, { binaryName: binary, systemdCgroup: true }, async () => undefined);
    await expect(tried).rejects.toThrow(/systemd|cgroupsPath/);
    expect(await readFile(calls, "utf8")).toMatch(/--systemd-cgroup create /);
    await t.must("containers", "rm", t.id("o"));
  },
);

row(
  "F01",
  "runc's options: io_gid owns the pipes of a process, and io_uid until runc gives them to its user",
  OPTIONS,
  async (t) => {
    const ids = { ioUid: 1234, ioGid: 2345 };
    const look = ["stat", "-L", "-c", "%u:%g", "/proc/self/fd/1"];
    await withOptions(t, ids, async (id) => {
      const file = t.path(t.id("out"));
      await t.must("tasks", "exec", "--exec-id", "e", "--log-uri", `file://${file}`, id, ...look);
      // runc itself makes the pipes' uid that of the process.
      expect(await readFile(file, "utf8")).toBe("0:2345\n");
    });
    await withOptions(t, {}, async (id) => {
      const file = t.path(t.id("plain"));
      await t.must("tasks", "exec", "--exec-id", "e", "--log-uri", `file://${file}`, id, ...look);
      expect(await readFile(file, "utf8")).toBe("0:0\n");
    });
  },
);

row("F01", "runc's options: shim_cgroup is where the shim itself runs", OPTIONS, async (t) => {
  const top = existsSync("/sys/fs/cgroup/cgroup.controllers") ? "/sys/fs/cgroup" : "/sys/fs/cgroup/pids";
  const name = `/stv-shims-${t.id("x")}`;
  await mkdir(`${top}${name}`);
  try {
    await withOptions(t, { shimCgroup: name }, async (_id, pid) => {
      const parent = /^PPid:\s+(\d+)/m.exec(await readFile(`/proc/${pid}/status`, "utf8"))?.[1] ?? "";
      expect((await readFile(`${top}${name}/cgroup.procs`, "utf8")).split("\n")).toContain(parent);
      // The container is not in it.
      expect((await readFile(`${top}${name}/cgroup.procs`, "utf8")).split("\n")).not.toContain(String(pid));
    });
  } finally {
    await eventually("the shim to end", async () =>
      rmdir(`${top}${name}`).then(
        () => true,
        () => undefined,
      ),
    );
  }
});

row("F14", "the runtime puts the process into namespaces and a cgroup of its own", ALL, async (t) => {
  const id = t.id("c");
  await t.must("run", "-d", "--null-io", "--memory-limit", "50331648", await t.image(), id, "sleep", "1000");
  const pid = /^\S+\s+(\d+)/m.exec((await t.must("tasks", "ls")).split("\n")[1] ?? "")?.[1] ?? "";
  for (const kind of ["ipc", "mnt", "net", "pid", "uts"])
    expect(await readlink(`/proc/${pid}/ns/${kind}`)).not.toBe(await readlink(`/proc/self/ns/${kind}`));
  const cgroups = await readFile(`/proc/${pid}/cgroup`, "utf8");
  const memory = /^\d+:memory:(.*)$/m.exec(cgroups)?.[1];
  const path = memory ?? /^0::(.*)$/m.exec(cgroups)?.[1] ?? "";
  expect(path).toEndWith(`/${t.namespace}/${id}`);
  const file = memory === undefined ? `${path}/memory.max` : `/memory${path}/memory.limit_in_bytes`;
  expect((await readFile(`/sys/fs/cgroup${file}`, "utf8")).trim()).toBe("50331648");
});
