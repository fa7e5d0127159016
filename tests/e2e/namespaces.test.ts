import { expect } from "bun:test";
import { IMAGE, ociArchive } from "../harness/images.ts";
import { row } from "../harness/row.ts";

const columns = (text: string): string[] => (text.split("\n")[0] ?? "").trim().split(/\s+/);

row("E02", "the help lists the commands with their short names, which do the same", {}, async (t) => {
  for (const group of ["namespaces", "namespace", "ns"]) {
    const help = await t.must(group, "--help");
    for (const names of ["create, c", "list, ls", "remove, rm", "label"])
      expect(help).toMatch(new RegExp(`^\\s+${names}\\s{2,}\\S`, "m"));
  }
  await t.must("namespace", "c", t.id("a"));
  expect((await t.must("ns", "list", "-q")).split("\n")).toContain(t.id("a"));
  await t.must("namespaces", "label", t.id("a"), "x=1");
  expect(await t.must("ns", "ls")).toMatch(new RegExp(`^${t.id("a")}\\s+x=1`, "m"));
  expect(await t.must("namespace", "remove", t.id("a"))).toBe(`${t.id("a")}\n`);
});

row(
  "E03",
  "namespaces ls has the columns NAME and LABELS, and -q the names alone",
  {
    covers: [
      "cmd:ctr namespaces list",
      "flag:ctr namespaces list --quiet",
      "rpc:containerd.services.namespaces.v1.Namespaces/List",
    ],
  },
  async (t) => {
    await t.must("namespaces", "create", t.id("a"), "color=red");
    const listed = await t.must("namespaces", "ls");
    expect(columns(listed)).toEqual(["NAME", "LABELS"]);
    expect(listed).toMatch(new RegExp(`^${t.id("a")}\\s+color=red`, "m"));
    expect((await t.must("namespaces", "ls", "-q")).split("\n")).toContain(t.id("a"));
    await t.must("namespaces", "rm", t.id("a"));
  },
);

row(
  "E04",
  "a namespace is created once",
  { covers: ["cmd:ctr namespaces create", "rpc:containerd.services.namespaces.v1.Namespaces/Create"] },
  async (t) => {
    await t.must("namespaces", "create", t.id("a"));
    const again = await t.ctr("namespaces", "create", t.id("a"));
    expect(again.code).toBe(1);
    expect(again.stderr).toContain(`namespace "${t.id("a")}": already exists`);
    await t.must("namespaces", "rm", t.id("a"));
  },
);

row("E04", "a namespace's name is an identifier", {}, async (t) => {
  const bad = await t.ctr("namespaces", "create", "a/b");
  expect(bad.code).toBe(1);
  expect(bad.stderr).toContain("must match");
});

row(
  "E05",
  "rm prints the name; what is not empty is refused",
  { covers: ["cmd:ctr namespaces remove", "rpc:containerd.services.namespaces.v1.Namespaces/Delete"] },
  async (t) => {
    await t.must("namespaces", "create", t.id("a"));
    expect(await t.must("namespaces", "rm", t.id("a"))).toBe(`${t.id("a")}\n`);
    await t.image();
    const full = await t.ctr("namespaces", "rm", t.namespace);
    expect(full.code).toBe(1);
    expect(full.stderr).toContain(`namespace "${t.namespace}" must be empty`);
  },
);

row(
  "E04",
  "labels are set and cleared",
  { covers: ["cmd:ctr namespaces label", "rpc:containerd.services.namespaces.v1.Namespaces/Update"] },
  async (t) => {
    await t.must("namespaces", "create", t.id("a"), "keep=1");
    await t.must("namespaces", "label", t.id("a"), "more=2", "keep=");
    expect(await t.must("namespaces", "ls")).toMatch(new RegExp(`^${t.id("a")}\\s+more=2\\s*$`, "m"));
    await t.must("namespaces", "rm", t.id("a"));
  },
);

row("E01", "the same id in two namespaces, and images seen only in their own", {}, async (t) => {
  const image = await t.image();
  const other = t.id("other");
  t.daemon.use(other);
  await t.must("containers", "create", image, "same", "true");
  expect((await t.daemon.ctr(t.cast.client, other, ["images", "ls", "-q"])).stdout).toBe("");
  expect((await t.daemon.ctr(t.cast.client, other, ["containers", "info", "same"])).stderr).toContain("not found");
  const second = await t.daemon.ctr(t.cast.client, other, ["images", "ls"]);
  expect(second.code).toBe(0);
  await t.must("containers", "rm", "same");
});

row("E06", "tasks of an empty namespace: the header alone", {}, async (t) => {
  expect(columns(await t.must("tasks", "ls"))).toEqual(["TASK", "PID", "STATUS"]);
  expect((await t.must("tasks", "ls")).trim().split("\n")).toHaveLength(1);
});

row("E08", "a container created in a namespace is seen there only", { covers: ["flag:ctr --namespace"] }, async (t) => {
  await t.must("containers", "create", await t.image(), t.id("c"), "true");
  expect(await t.must("containers", "ls", "-q")).toBe(`${t.id("c")}\n`);
  const elsewhere = await t.daemon.ctr(t.cast.client, t.id("empty"), ["containers", "ls", "-q"]);
  expect(elsewhere.stdout).toBe("");
});

row(
  "E09",
  "containers ls: CONTAINER, IMAGE, RUNTIME",
  { covers: ["cmd:ctr containers list", "flag:ctr containers list --quiet"] },
  async (t) => {
    const image = await t.image();
    await t.must("containers", "create", image, t.id("c"), "true");
    const listed = await t.must("containers", "ls");
    expect(columns(listed)).toEqual(["CONTAINER", "IMAGE", "RUNTIME"]);
    expect(listed).toMatch(new RegExp(`^${t.id("c")}\\s+${image}\\s+io.containerd.runc.v2`, "m"));
  },
);

row("G32", "the namespace comes by -n or CONTAINERD_NAMESPACE", {}, async (t) => {
  await t.must("containers", "create", await t.image(), t.id("c"), "true");
  const ran = await t.daemon.ctrPlain(t.cast.client, ["containers", "ls", "-q"], {
    env: { CONTAINERD_NAMESPACE: t.namespace },
  });
  expect(ran.stdout).toBe(`${t.id("c")}\n`);
});

row("W6", "namespaces: ls, create, run in one, ls in it, rm", {}, async (t) => {
  const own = t.id("w6");
  t.daemon.use(own);
  const ctr = async (...args: string[]): Promise<string> => {
    const ran = await t.daemon.ctr(t.cast.client, own, args);
    expect(ran.stderr).toBe("");
    return ran.stdout;
  };
  await t.must("namespaces", "create", own);
  const archive = t.path(`${own}.tar`);
  await Bun.write(archive, await ociArchive());
  await ctr("images", "import", archive);
  await ctr("run", "-d", IMAGE, own, "sleep", "100");
  expect(await ctr("tasks", "ls", "-q")).toBe(`${own}\n`);
  expect(await t.must("tasks", "ls", "-q")).toBe("");
  await ctr("tasks", "kill", "-s", "KILL", own);
});
