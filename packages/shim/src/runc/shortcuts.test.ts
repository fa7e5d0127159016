import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { closeSync, constants, openSync, writeSync } from "node:fs";
import { chmod, mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { decodeText } from "@stevedore/base/bytes";
import { isJsonObject, parseJson } from "@stevedore/oci/json-lossless";
import { makeFifo } from "@stevedore/os/fifo";
import { runCommand } from "@stevedore/os/spawn";
import { canRunContainers, OUR_SHIM, ShimBench } from "../test-shim.ts";
import { releaseInit } from "./shortcuts.ts";

setDefaultTimeout(60_000);

const KILLED = 137;

/** What runc itself says of a container, "" when it knows none. */
async function runc(bench: ShimBench, ...args: readonly string[]): Promise<string> {
  const ran = await runCommand(["runc", "--root", join(bench.dir, "runc/test"), ...args]);
  return ran.code === 0 ? decodeText(ran.stdout) : "";
}

async function statusOf(bench: ShimBench, id: string): Promise<unknown> {
  const text = await runc(bench, "state", id);
  const state = text === "" ? undefined : parseJson(text);
  return isJsonObject(state) ? state["status"] : "none";
}

async function cgroupsOf(bench: ShimBench, id: string): Promise<string[]> {
  const state = parseJson(await readFile(join(bench.dir, "runc/test", id, "state.json"), "utf8"));
  const paths = isJsonObject(state) ? state["cgroup_paths"] : undefined;
  if (!isJsonObject(paths)) throw new Error("no cgroups");
  return Object.values(paths).flatMap((path) => (typeof path === "string" ? [path] : []));
}

async function exist(paths: readonly string[]): Promise<boolean> {
  const found = await Promise.all(paths.map((path) => stat(path).catch(() => undefined)));
  return found.some((one) => one !== undefined);
}

test("an init that writes, runs its program and ends while it is looked at has been started", async () => {
  const folder = await mkdtemp(join(tmpdir(), "shim-release-"));
  try {
    const fifo = join(folder, "exec.fifo");
    makeFifo(fifo, 0o600);
    const freezerFile = join(folder, "freezer.state");
    await writeFile(freezerFile, "THAWED\n");
    let asked = 0;
    const known = {
      folder,
      pid: process.pid,
      // What is asked to see whether it lives: it has written its byte by then, and is another process than it was.
      get startTicks(): bigint {
        asked += 1;
        if (asked === 1) {
          const fd = openSync(fifo, constants.O_WRONLY | constants.O_NONBLOCK);
          writeSync(fd, "0");
          closeSync(fd);
        }
        return 0n;
      },
      cgroups: [],
      freezerFile,
      privatePids: true,
      hooks: new Set<string>(),
    };
    expect(await releaseInit(known)).toBe(true);
    expect(asked).toBe(1);
    expect(await exist([fifo])).toBe(false);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

describe.skipIf(!canRunContainers)("start, kill and delete without runc", () => {
  test("leave what runc leaves: nothing", async () => {
    await using bench = await ShimBench.open(OUR_SHIM);
    const { id, task } = await bench.create("plain", { args: ["sleep", "1000"] });
    const cgroups = await cgroupsOf(bench, id);
    expect(await statusOf(bench, id)).toBe("created");
    await task.start({ id });
    expect(await statusOf(bench, id)).toBe("running");
    expect(await exist([join(bench.dir, "runc/test", id, "exec.fifo")])).toBe(false);
    await task.kill({ id, signal: 9 });
    expect(await task.wait({ id })).toMatchObject({ exitStatus: KILLED });
    expect(await statusOf(bench, id)).toBe("stopped");
    expect(task.kill({ id, signal: 9 })).rejects.toThrow("process already finished: not found");
    expect(await exist(cgroups)).toBe(true);
    await task.delete({ id });
    expect(await statusOf(bench, id)).toBe("none");
    expect(await exist([...cgroups, join(bench.dir, "runc/test", id)])).toBe(false);
    await task.shutdown({ id }).catch(() => undefined);
  });

  test("a container with groups of its own, and one that was frozen past us, are left to runc", async () => {
    await using bench = await ShimBench.open(OUR_SHIM);
    const { id, task } = await bench.create("odd", { args: ["sleep", "1000"] });
    const cgroups = await cgroupsOf(bench, id);
    await Promise.all(cgroups.map((path) => mkdir(join(path, "inner"))));
    await task.start({ id });
    await runc(bench, "pause", id);
    expect(await statusOf(bench, id)).toBe("paused");
    await task.kill({ id, signal: 9 });
    expect(await task.wait({ id })).toMatchObject({ exitStatus: KILLED });
    await task.delete({ id });
    expect(await exist([...cgroups, join(bench.dir, "runc/test", id)])).toBe(false);
    await task.shutdown({ id }).catch(() => undefined);
  });

  test("hooks run", async () => {
    await using bench = await ShimBench.open(OUR_SHIM);
    const hook = (file: string): unknown => [{ path: "/bin/sh", args: ["sh", "-c", `cat > ${join(bench.dir, file)}`] }];
    const { id, task } = await bench.create("hooks", {
      args: ["true"],
      hooks: { poststart: hook("poststart"), poststop: hook("poststop") },
    });
    await task.start({ id });
    await task.wait({ id });
    expect(await exist([join(bench.dir, "poststop")])).toBe(false);
    await task.delete({ id });
    const told = await Promise.all(["poststart", "poststop"].map((file) => readFile(join(bench.dir, file), "utf8")));
    expect(told.every((text) => text.includes(`"id":"${id}"`))).toBe(true);
    await task.shutdown({ id }).catch(() => undefined);
  });

  test("a wrapper of runc is called for everything", async () => {
    await using bench = await ShimBench.open(OUR_SHIM);
    const binaryName = join(bench.dir, "runc-wrapper");
    const calls = join(bench.dir, "calls");
    await writeFile(
      binaryName,
      `#!/bin/sh\nfor word; do case $word in create|start|kill|delete) echo $word >> ${calls};; esac; done\nexec runc "$@"\n`,
    );
    await chmod(binaryName, 0o755);
    const { id, task } = await bench.create("wrapped", { args: ["sleep", "1000"], binaryName });
    await task.start({ id });
    await task.kill({ id, signal: 9 });
    await task.wait({ id });
    await task.delete({ id });
    expect(await readFile(calls, "utf8")).toBe("create\nstart\nkill\ndelete\n");
    await task.shutdown({ id }).catch(() => undefined);
  });

  test("a container that has ended before its start is not started", async () => {
    await using bench = await ShimBench.open(OUR_SHIM);
    const { id, task, pid } = await bench.create("dead", { args: ["true"] });
    process.kill(pid, "SIGKILL");
    expect(await task.wait({ id })).toMatchObject({ exitStatus: KILLED });
    expect(task.start({ id })).rejects.toThrow("cannot start a stopped process");
    await task.delete({ id });
    expect(await statusOf(bench, id)).toBe("none");
    await task.shutdown({ id }).catch(() => undefined);
  });
});
