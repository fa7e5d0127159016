import { expect } from "bun:test";
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
