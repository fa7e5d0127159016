import { expect } from "bun:test";
import { backgroundContext } from "@stevedore/base";
import { connectClient } from "@stevedore/sdk/connect";
import { digestOf } from "../harness/images.ts";
import { row } from "../harness/row.ts";

const columns = (text: string): string[] => (text.split("\n")[0] ?? "").trim().split(/\s+/);

row("G01", "-v prints the version", { covers: ["flag:ctr --version"] }, async (t) => {
  const printed = await t.must("-v");
  expect(printed).toMatch(/^ctr github.com\/containerd\/containerd\S* \S+\n$/);
});

row(
  "G02",
  "version has a client and a server block, the server's with a UUID that stays",
  {
    covers: [
      "cmd:ctr version",
      "rpc:containerd.services.version.v1.Version/Version",
      "rpc:containerd.services.introspection.v1.Introspection/Server",
    ],
  },
  async (t) => {
    const printed = await t.must("version");
    expect(printed).toMatch(
      /^Client:\n {2}Version: {2}\S+\n {2}Revision: .*\n {2}(?:Go|Bun) version: .*\n\nServer:\n {2}Version: {2}\S+\n {2}Revision: .*\n {2}UUID: [0-9a-f-]{36}\n/,
    );
    const uuid = /UUID: (\S+)/.exec(printed)?.[1];
    expect(await t.must("version")).toContain(uuid ?? "a UUID");
  },
);

row(
  "A01",
  "an address where nobody listens: a clear error and status 1",
  { covers: ["flag:ctr --address"] },
  async (t) => {
    const ran = await t.ctr("--address", t.path("nobody.sock"), "--connect-timeout", "1s", "version");
    expect(ran.code).toBe(1);
    expect(ran.stderr).toContain("nobody.sock");
  },
);

row("G03", "the top-level help lists the groups", { covers: ["cmd:ctr", "flag:ctr --help"] }, async (t) => {
  const help = await t.must("--help");
  for (const name of [
    "plugins",
    "version",
    "containers",
    "content",
    "events",
    "images",
    "leases",
    "namespaces",
    "pprof",
    "run",
    "snapshots",
    "tasks",
    "install",
    "oci",
    "shim",
  ]) {
    expect(help).toMatch(new RegExp(`^\\s+${name}\\b`, "m"));
  }
});

row("G34", "the help says that this is an unsupported debug client", {}, async (t) => {
  expect(await t.must("--help")).toMatch(/unsupported.*debug/s);
});

row("G03", "an unknown command is refused", {}, async (t) => {
  const ran = await t.ctr("nonsense");
  expect(ran.code).not.toBe(0);
});

row(
  "A15",
  "plugins ls lists content, snapshotter, metadata and runtime types as ok",
  { covers: ["cmd:ctr plugins list", "rpc:containerd.services.introspection.v1.Introspection/Plugins"] },
  async (t) => {
    const listed = await t.must("plugins", "ls");
    expect(columns(listed)).toEqual(["TYPE", "ID", "PLATFORMS", "STATUS"]);
    for (const [type, id] of [
      ["io.containerd.content.v1", "content"],
      ["io.containerd.snapshotter.v1", "overlayfs"],
      ["io.containerd.snapshotter.v1", "native"],
      ["io.containerd.metadata.v1", "bolt"],
      ["io.containerd.runtime.v2", "task"],
    ]) {
      expect(listed).toMatch(new RegExp(`^${type}\\s+${id}\\s+\\S+\\s+ok\\s*$`, "m"));
    }
  },
);

row("N17", "the services layer is there", {}, async (t) => {
  const listed = await t.must("plugins", "ls");
  for (const name of ["containers", "content", "diff", "images", "introspection", "namespaces", "snapshots", "tasks"]) {
    expect(listed).toMatch(new RegExp(`^io.containerd.service.v1\\s+${name}-service\\s+\\S+\\s+ok`, "m"));
  }
});

row(
  "O01",
  "plugins ls -d tells what each requires and exports; filters choose",
  { covers: ["flag:ctr plugins list --detailed", "flag:ctr plugins list --quiet"] },
  async (t) => {
    const detailed = await t.must("plugins", "ls", "-d", "id==overlayfs");
    expect(detailed).toContain("io.containerd.snapshotter.v1");
    expect(detailed).toMatch(/Exports:/);
    expect(detailed).toMatch(/root\s+\S+io\.containerd\.snapshotter\.v1\.overlayfs/);
  },
);

row(
  "E14",
  "a lease is created, listed and deleted; it keeps content until then",
  {
    covers: [
      "cmd:ctr leases create",
      "cmd:ctr leases list",
      "cmd:ctr leases delete",
      "flag:ctr leases create --id",
      "flag:ctr leases create --expires",
      "flag:ctr leases list --quiet",
      "flag:ctr leases delete --sync",
      "rpc:containerd.services.leases.v1.Leases/Create",
      "rpc:containerd.services.leases.v1.Leases/List",
      "rpc:containerd.services.leases.v1.Leases/Delete",
    ],
  },
  async (t) => {
    const id = t.id("lease");
    expect(await t.must("leases", "create", "--id", id, "--expires", "1h", "purpose=test")).toBe(`${id}\n`);
    const listed = await t.must("leases", "ls");
    expect(columns(listed)).toEqual(["ID", "CREATED", "AT", "LABELS"]);
    expect(listed).toContain(id);
    expect(listed).toContain("purpose=test");
    expect(await t.must("leases", "ls", "-q")).toBe(`${id}\n`);
    const again = await t.ctr("leases", "create", "--id", id);
    expect(again.stderr).toContain("already exists");
    await t.must("leases", "rm", "--sync", id);
    expect(await t.must("leases", "ls", "-q")).toBe("");
  },
);

row(
  "C20",
  "content: ingest, get, label, list, delete",
  {
    covers: [
      "cmd:ctr content ingest",
      "flag:ctr content ingest --expected-digest",
      "flag:ctr content ingest --expected-size",
      "cmd:ctr content get",
      "cmd:ctr content list",
      "flag:ctr content list --quiet",
      "cmd:ctr content label",
      "cmd:ctr content delete",
      "rpc:containerd.services.content.v1.Content/Write",
      "rpc:containerd.services.content.v1.Content/Read",
      "rpc:containerd.services.content.v1.Content/List",
      "rpc:containerd.services.content.v1.Content/Update",
      "rpc:containerd.services.content.v1.Content/Delete",
    ],
  },
  async (t) => {
    const digest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    const put = await t.ctrWith(
      { stdin: "hello" },
      "content",
      "ingest",
      "--expected-digest",
      digest,
      "--expected-size",
      "5",
      t.id("ref"),
    );
    expect(put).toMatchObject({ code: 0, stderr: "" });
    expect(await t.must("content", "get", digest)).toBe("hello");
    expect(await t.must("content", "label", digest, "a=1")).toContain("a=1");
    const listed = await t.must("content", "ls");
    expect(columns(listed)).toEqual(["DIGEST", "SIZE", "AGE", "LABELS"]);
    expect(listed).toMatch(new RegExp(`^${digest}\\s+5 ?B\\s+.*a=1`, "m"));
    await t.must("content", "rm", digest);
    const missing = await t.ctr("content", "get", digest);
    expect(missing.code).toBe(1);
    expect(missing.stderr).toContain("not found");
  },
);

row(
  "C20",
  "content that is not what it should be is refused, and its ingest kept",
  { covers: ["flag:ctr content ingest --expected-digest", "flag:ctr content ingest --expected-size"] },
  async (t) => {
    // Nobody else's: a blob that is there already needs no bytes.
    const right = `right ${t.namespace}`;
    const digest = digestOf(Buffer.from(right));
    const size = String(right.length);
    const other = right.toUpperCase();
    const put = async (ref: string, stdin: string, ...flags: string[]) =>
      t.ctrWith({ stdin }, "content", "ingest", ...flags, t.id(ref));
    const wrong = await put("wrong", other, "--expected-digest", digest);
    expect([wrong.code, wrong.stderr]).toEqual([
      1,
      `ctr: failed commit on ref "${t.id("wrong")}": commit failed: unexpected commit digest ${digestOf(Buffer.from(other))}, expected ${digest}: failed precondition\n`,
    ]);
    const long = await put("long", `${right}!`, "--expected-digest", digest, "--expected-size", size);
    expect([long.code, long.stderr]).toEqual([
      1,
      `ctr: failed commit on ref "${t.id("long")}": commit failed: "${t.id("long")}" failed size validation: ${right.length + 1} != ${size}: failed precondition\n`,
    ]);
    const short = await put("short", right.slice(1), "--expected-digest", digest, "--expected-size", size);
    expect([short.code, short.stderr]).toEqual([1, "ctr: failed to read expected number of bytes: unexpected EOF\n"]);
    expect(await t.must("content", "ls", "-q")).toBe("");
    const active = await t.must("content", "active");
    for (const ref of ["wrong", "long", "short"]) expect(active).toContain(t.id(ref));
    // What came is not lost, and does not get in the way of what is right.
    // No command of ctr ends an ingest.
    await using client = connectClient({ address: t.daemon.address });
    const context = backgroundContext({ namespace: t.namespace });
    for (const ref of ["wrong", "long", "short"]) await client.content.abort(context, t.id(ref));
    expect((await put("right", right, "--expected-digest", digest, "--expected-size", size)).code).toBe(0);
    expect(await t.must("content", "get", digest)).toBe(right);
  },
);

row(
  "G36",
  "snapshots: prepare, view, commit, info, tree, usage, label, delete",
  {
    covers: [
      "cmd:ctr snapshots prepare",
      "cmd:ctr snapshots view",
      "cmd:ctr snapshots commit",
      "cmd:ctr snapshots info",
      "cmd:ctr snapshots list",
      "cmd:ctr snapshots tree",
      "cmd:ctr snapshots usage",
      "cmd:ctr snapshots label",
      "cmd:ctr snapshots mounts",
      "cmd:ctr snapshots delete",
      "flag:ctr snapshots --snapshotter",
      "rpc:containerd.services.snapshots.v1.Snapshots/Prepare",
      "rpc:containerd.services.snapshots.v1.Snapshots/View",
      "rpc:containerd.services.snapshots.v1.Snapshots/Commit",
      "rpc:containerd.services.snapshots.v1.Snapshots/Stat",
      "rpc:containerd.services.snapshots.v1.Snapshots/Usage",
      "rpc:containerd.services.snapshots.v1.Snapshots/Mounts",
      "rpc:containerd.services.snapshots.v1.Snapshots/Remove",
      "rpc:containerd.services.snapshots.v1.Snapshots/Update",
      "rpc:containerd.services.snapshots.v1.Snapshots/List",
    ],
  },
  async (t) => {
    const [base, upper, view] = [t.id("base"), t.id("upper"), t.id("view")];
    await t.must("snapshots", "prepare", t.id("work"));
    await t.must("snapshots", "commit", base, t.id("work"));
    await t.must("snapshots", "prepare", upper, base);
    await t.must("snapshots", "view", view, base);
    const listed = await t.must("snapshots", "ls");
    expect(columns(listed)).toEqual(["KEY", "PARENT", "KIND"]);
    expect(listed).toMatch(new RegExp(`^${upper}\\s+${base}\\s+Active`, "m"));
    expect(listed).toMatch(new RegExp(`^${view}\\s+${base}\\s+View`, "m"));
    expect(JSON.parse(await t.must("snapshots", "info", base))).toMatchObject({ Kind: "Committed", Name: base });
    expect(await t.must("snapshots", "tree")).toContain(base);
    expect(columns(await t.must("snapshots", "usage"))).toEqual(["KEY", "SIZE", "INODES"]);
    expect(await t.must("snapshots", "mounts", "/nowhere", upper)).toContain("mount -t ");
    await t.must("snapshots", "label", base, "x=y");
    expect(JSON.parse(await t.must("snapshots", "info", base))).toHaveProperty("Labels.x", "y");
    const held = await t.ctr("snapshots", "rm", base);
    expect(held.code).toBe(1);
    expect(held.stderr).toMatch(/cannot remove snapshot with child|failed precondition/);
    for (const key of [view, upper, base]) await t.must("snapshots", "rm", key);
    expect((await t.must("snapshots", "ls")).trim().split("\n")).toHaveLength(1);
    await t.must("snapshots", "--snapshotter", "native", "prepare", t.id("n"));
    await t.must("snapshots", "--snapshotter", "native", "rm", t.id("n"));
  },
);

row("O03", "an image's events, with their namespace and topic", { covers: ["cmd:ctr events"] }, async (t) => {
  const listening = t.start("events");
  await Bun.sleep(400);
  const image = await t.image();
  await t.must("images", "rm", "--sync", image);
  await Bun.sleep(300);
  await listening.stop();
  const own = listening
    .stdout()
    .split("\n")
    .filter((line) => line.includes(` ${t.namespace} `));
  expect(own.some((line) => line.includes("/images/create") && line.includes(image))).toBe(true);
  expect(own.some((line) => line.includes("/images/delete"))).toBe(true);
});

row("G36", "oci spec prints a spec that runc takes", { covers: ["cmd:ctr oci spec"] }, async (t) => {
  const spec: unknown = JSON.parse(await t.must("oci", "spec"));
  expect(spec).toHaveProperty("process.cwd", "/");
  expect(spec).toHaveProperty("linux.namespaces");
  expect(spec).toHaveProperty("root.path", "rootfs");
});
