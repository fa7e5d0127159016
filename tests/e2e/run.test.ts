import { expect } from "bun:test";
import { chmod, readFile } from "node:fs/promises";
import { dirname } from "node:path";
import { eventually } from "../harness/process.ts";
import { row } from "../harness/row.ts";

row(
  "F25",
  "run --rm prints what the process prints and gives its exit status",
  { covers: ["flag:ctr run --rm"] },
  async (t) => {
    const ran = await t.ctr("run", "--rm", await t.image(), t.id("a"), "sh", "-c", "echo hello; exit 7");
    expect(ran).toEqual({ code: 7, stdout: "hello\n", stderr: "" });
    expect((await t.ctr("containers", "ls", "-q")).stdout).toBe("");
  },
);

row(
  "F25",
  "run -d leaves a task running that can be killed and deleted",
  { covers: ["flag:ctr run --detach"] },
  async (t) => {
    const id = t.id("d");
    await t.must("run", "-d", await t.image(), id, "sleep", "100");
    expect(await t.must("tasks", "ls")).toMatch(new RegExp(`^${id}\\s+\\d+\\s+RUNNING`, "m"));
    await t.must("tasks", "kill", "-s", "KILL", id);
    // Kill only sends the signal; on both daemons the exit comes a moment later.
    await eventually("the task to stop", async () =>
      (await t.must("tasks", "ls")).includes("STOPPED") ? true : undefined,
    );
    expect((await t.ctr("tasks", "rm", id)).code).toBeOneOf([0, 137]);
  },
);

row(
  "N07",
  "plugins inspect-runtime: a runtime's version and features, by its shim",
  {
    casts: ["ours"],
    source: "containerd 2.3.4, ctr plugins inspect-runtime; 1.6 has neither the command nor the call",
    covers: [
      "cmd:ctr plugins inspect-runtime",
      "flag:ctr plugins inspect-runtime --runtime",
      "flag:ctr plugins inspect-runtime --runc-binary",
      "rpc:containerd.services.introspection.v1.Introspection/PluginInfo",
    ],
  },
  async (t) => {
    const info: unknown = JSON.parse(await t.must("plugins", "inspect-runtime"));
    expect(info).toMatchObject({ Name: "io.containerd.runc.v2", Options: {}, Annotations: null });
    expect(info).toHaveProperty("Features.ociVersionMax");
    const named: unknown = JSON.parse(await t.must("plugins", "inspect-runtime", "--runc-binary", "/usr/sbin/runc"));
    expect(named).toHaveProperty("Options", { binary_name: "/usr/sbin/runc" });
    const missing = await t.ctr("plugins", "inspect-runtime", "--runtime", "io.containerd.none.v1");
    expect(missing.code).toBe(1);
    expect(missing.stderr).toContain("failed to resolve runtime path");
  },
);

row(
  "S07",
  "a user namespace: root inside is somebody else outside, and its files are its own",
  { covers: ["flag:ctr run --uidmap", "flag:ctr run --gidmap"] },
  async (t) => {
    // Root inside must come by all folders above its root file system.
    for (const folder of [t.daemon.dir, dirname(t.daemon.dir)]) await chmod(folder, 0o711);
    const maps = ["--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536"];
    const image = await t.image();
    const look =
      "cat /proc/self/uid_map /proc/self/gid_map; stat -c %u:%g /bin/sh; echo x > /made; stat -c %u:%g /made";
    const ran = await t.ctr("run", "--rm", ...maps, image, t.id("a"), "sh", "-c", look);
    expect({ ...ran, stdout: ran.stdout.replaceAll(/[^\S\n]+/g, " ") }).toEqual({
      code: 0,
      stdout: " 0 100000 65536\n 0 200000 65536\n0:0\n0:0\n",
      stderr: "",
    });
    // The mapped copy serves the next one; whoever has no mapping sees the image's own files.
    await t.must("run", "-d", ...maps, image, t.id("b"), "sleep", "1000");
    const listed = await t.must("snapshots", "ls");
    expect(listed.match(/^sha256:[0-9a-f]{64}-100000-200000 /gm)).toHaveLength(1);
    const pid = /^\S+\s+(\d+)/m.exec((await t.must("tasks", "ls")).split("\n")[1] ?? "")?.[1] ?? "";
    expect(await readFile(`/proc/${pid}/status`, "utf8")).toMatch(/^Uid:\s+100000\s[^]*^Gid:\s+200000\s/m);
    expect(await t.must("run", "--rm", image, t.id("c"), "stat", "-c", "%u:%g", "/bin/sh")).toBe("0:0\n");
    await t.must("tasks", "rm", "--force", t.id("b"));
    await t.must("containers", "rm", t.id("b"));
  },
);
