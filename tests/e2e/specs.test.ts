// The containers that both clients make of the same command line, on one daemon: everything that `containers info` shows.
// What containerd 2.3.4 does and 1.6 does not is taken out on both sides, and said here.
import { expect } from "bun:test";
import { chmod, mkdir, rm, symlink, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { type Guard, recordOf } from "../../tools/json.ts";
import { type Maker, program } from "../harness/daemon.ts";
import { row, type Stage } from "../harness/row.ts";

type Tree = Readonly<Record<string, unknown>>;

const isAnything: Guard<unknown> = (_value): _value is unknown => true;
const isRecord = recordOf(isAnything);

const at = (tree: unknown, ...path: readonly string[]): unknown =>
  path.reduce((value: unknown, key) => (isRecord(value) ? value[key] : undefined), tree);

/** containerd 2.3.4's spec says 1.3.0 and masks one path more than 1.6's. */
const NEWER = { ociVersion: "1.3.0", masked: "/sys/devices/virtual/powercap" };

function normal(info: Tree): unknown {
  const text = JSON.stringify({ ...info, CreatedAt: "", UpdatedAt: "" })
    .replace(/"ociVersion":"[^"]*"/, `"ociVersion":"${NEWER.ociVersion}"`)
    .replace(`"${NEWER.masked}",`, "");
  return JSON.parse(text);
}

let counter = 0;

async function infoBy(
  t: Stage,
  client: Maker,
  flags: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<Tree> {
  const id = t.id(`c${counter}`);
  const image = await t.image({ config: { Labels: { "of-config": "1" } } });
  const run = async (...args: string[]) => t.daemon.ctr(client, t.namespace, args, { env });
  const made = await run("containers", "create", ...flags, image, id, "echo", "x");
  expect(made).toMatchObject({ code: 0, stdout: "", stderr: "" });
  const info: unknown = JSON.parse(await t.must("containers", "info", id));
  await t.must("containers", "rm", id);
  if (!isRecord(info)) throw new Error("info is no object");
  return info;
}

/** Both clients' containers of these flags, found equal. @returns ours */
async function same(t: Stage, flags: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Tree> {
  counter += 1;
  const theirs = await infoBy(t, "debian", flags, env);
  const ours = await infoBy(t, "ours", flags, env);
  expect(normal(ours)).toEqual(normal(theirs));
  return ours;
}

const CASTS = ["our-ctr", "ours"] as const;

row(
  "G18",
  "a container that both clients make is one and the same",
  {
    casts: CASTS,
    covers: [
      "flag:ctr containers create --cap-add",
      "flag:ctr containers create --cap-drop",
      "flag:ctr containers create --rdt-class",
      "flag:ctr containers create --apparmor-profile",
      "flag:ctr containers create --net-host",
      "flag:ctr containers create --privileged",
      "flag:ctr containers create --memory-limit",
      "flag:ctr containers create --cpu-quota",
      "flag:ctr containers create --cpu-period",
      "flag:ctr containers create --device",
      "flag:ctr containers create --env",
      "flag:ctr containers create --env-file",
      "flag:ctr containers create --cwd",
      "flag:ctr containers create --label",
      "flag:ctr containers create --annotation",
      "flag:ctr containers create --read-only",
      "flag:ctr containers create --tty",
      "flag:ctr containers create --allow-new-privs",
      "flag:ctr containers create --mount",
      "flag:ctr containers create --rootfs-propagation",
      "flag:ctr containers create --with-ns",
    ],
  },
  async (t) => {
    const envFile = t.path(t.id("env"));
    await writeFile(envFile, "FROM=file\nPATH=/there\n");
    const image = await t.image({ config: { Labels: { "of-config": "1" } } });
    await t.must("images", "label", image, "of-image=2");
    const labelled = await same(t, ["--label", "own=3"]);
    expect(at(labelled, "Labels")).toMatchObject({ "of-config": "1", "of-image": "2", own: "3" });
    await same(t, []);
    await same(t, ["--cap-add", "CAP_SYS_ADMIN", "--cap-drop", "CAP_CHOWN"]);
    await same(t, ["--cap-add", "CAP_OF_A_LATER_KERNEL"]);
    expect(at(await same(t, ["--rdt-class", "gold"]), "Spec", "linux", "intelRdt", "closID")).toBe("gold");
    expect(at(await same(t, ["--apparmor-profile", "mine"]), "Spec", "process", "apparmorProfile")).toBe("mine");
    const host = await same(t, ["--net-host"]);
    expect(at(host, "Spec", "process", "env")).toContain(`HOSTNAME=${hostname()}`);
    await same(t, ["--privileged"]);
    await same(t, ["--memory-limit", "1000000", "--cpu-quota", "1000", "--cpu-period", "10000"]);
    await same(t, ["--device", "/dev/null", "--device", "/dev/loop0"]);
    await same(t, ["--env", "A=b", "--env", "PATH=/x", "--env-file", envFile, "--cwd", "/tmp", "--annotation", "c=d"]);
    await same(t, ["--read-only", "--tty", "--allow-new-privs", "--rootfs-propagation", "shared"]);
    await same(t, ["--mount", "type=bind,src=/tmp,dst=/host,options=rbind:ro", "--with-ns", "network:/proc/1/ns/net"]);
    const refused = await t.ctr("containers", "create", "--cap-add", "SYS_ADMIN", image, t.id("r"), "true");
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain("capabilities must be specified with 'CAP_' prefix");
  },
);

row(
  "G15",
  "GPUs are asked for by the same hook, on a machine without any",
  { casts: CASTS, covers: ["flag:ctr containers create --gpus", "flag:ctr run --gpus"] },
  async (t) => {
    const bin = t.path(t.id("bin"));
    await mkdir(bin);
    const cli = `${bin}/nvidia-container-cli`;
    await writeFile(cli, "#!/bin/sh\n");
    await chmod(cli, 0o755);
    await symlink(program("ours", "containerd"), `${bin}/containerd`);
    const env = { PATH: `${bin}:/usr/bin:/bin`, HOME: "/root" };
    const info = await same(t, ["--gpus", "0", "--gpus", "2"], env);
    const hooks = at(info, "Spec", "hooks", "prestart");
    const [hook] = Array.isArray(hooks) ? Array.from<unknown>(hooks) : [];
    expect(at(hook, "args")).toContain("--device=0,2");
    expect(at(hook, "path")).toBe(`${bin}/containerd`);
    await rm(cli);
    const args = ["containers", "create", "--gpus", "0", await t.image(), t.id("none"), "true"];
    const none = await t.ctrWith({ env: { ...env, PATH: bin } }, ...args);
    expect(none.code).toBe(1);
    expect(none.stderr).toContain('"nvidia-container-cli": executable file not found in $PATH');
  },
);

row(
  "G15",
  "the default AppArmor profile needs a kernel that has AppArmor",
  { covers: ["flag:ctr containers create --apparmor-default-profile", "flag:ctr run --apparmor-default-profile"] },
  async (t) => {
    const loaded = "/sys/kernel/security/apparmor/profiles";
    const id = t.id("c");
    const made = await t.ctr("containers", "create", "--apparmor-default-profile", "stv", await t.image(), id, "true");
    if (await Bun.file(loaded).exists()) {
      expect(made.code).toBe(0);
      const spec: unknown = JSON.parse(await t.must("containers", "info", "--spec", id));
      expect(spec).toHaveProperty("process.apparmorProfile", "stv");
      expect(await Bun.file(loaded).text()).toContain("stv (");
    } else expect(made).toMatchObject({ code: 1, stderr: `ctr: open ${loaded}: no such file or directory\n` });
  },
);

row(
  "G15",
  "a class of block I/O becomes limits of the devices it names",
  {
    source:
      "containerd 2.3.4, cmd/ctr/commands/run/run_unix.go and goresctrl's blockio: 1.6's client has no such flags",
    casts: ["ours"],
    covers: [
      "flag:ctr containers create --blockio-config-file",
      "flag:ctr containers create --blockio-class",
      "flag:ctr run --blockio-config-file",
      "flag:ctr run --blockio-class",
    ],
  },
  async (t) => {
    const classes = t.path(t.id("classes.yaml"));
    await writeFile(
      classes,
      `Classes:
  slow:
    - Weight: 80
    - Devices: [/dev/loop0, "/dev/loop[1]", /dev/null]
      ThrottleReadBps: 50M   # bytes
      ThrottleWriteIOPS: 5k
`,
    );
    const image = await t.image();
    const create = async (id: string, ...flags: string[]) =>
      t.ctr("containers", "create", ...flags, image, t.id(id), "true");
    const made = await create("c", "--blockio-config-file", classes, "--blockio-class", "slow");
    expect(made.code).toBe(0);
    expect(made.stderr).toContain("is not a block device");
    const spec: unknown = JSON.parse(await t.must("containers", "info", "--spec", t.id("c")));
    const loops = (rate: number) => [0, 1].map((minor) => ({ major: 7, minor, rate }));
    expect(at(spec, "linux", "resources", "blockIO")).toEqual({
      weight: 80,
      throttleReadBpsDevice: loops(50_000_000),
      throttleWriteIOPSDevice: loops(5000),
    });
    const unknown = await create("u", "--blockio-config-file", classes, "--blockio-class", "fast");
    expect(unknown.code).toBe(1);
    expect(unknown.stderr).toEndWith('ctr: blockio-class error: no OCI BlockIO parameters for class "fast"\n');
    const missing = await create("m", "--blockio-config-file", "/nowhere");
    expect(missing.code).toBe(1);
    expect(missing.stderr).toStartWith('ctr: blockio-config-file error: failed to read config file "/nowhere"');
  },
);
