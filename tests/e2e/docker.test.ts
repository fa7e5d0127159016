// Debian's dockerd on a containerd that was there before it: what users of docker do, with dockerd on Debian's containerd first.
import { expect } from "bun:test";
import { readFile } from "node:fs/promises";
import { dockerRow, listed, untilInspected } from "../harness/docker-row.ts";
import { DOCKER_IMAGE } from "../harness/dockerd.ts";
import { eventually, exec } from "../harness/process.ts";
import type { CastName } from "../harness/row.ts";

const MIXED: readonly CastName[] = ["peer", "ours", "our-shim", "their-shim"];

const SLEEP = [DOCKER_IMAGE, "sleep", "1000"] as const;

dockerRow("P01", "dockerd uses the containerd it is given and starts none", { casts: MIXED }, async (t, docker) => {
  const children = await exec(["ps", "-o", "comm=", "--ppid", String(docker.pid)]);
  expect(children.stdout).not.toContain("containerd");
  const info = await docker.must("version", "--format", "{{json .Server.Components}}");
  const version = (await t.daemon.ctr("debian", "moby", ["version"])).stdout;
  const [, server = "?"] = /Server:\s+Version:\s+(\S+)/.exec(version) ?? [];
  expect(info).toContain(`"Version":"${server}"`);
  expect(await docker.must("run", "--rm", DOCKER_IMAGE, "echo", "hello")).toBe("hello");
});

dockerRow(
  "P04 P05 P06 P07 P08 P09 P10 W10",
  "run, published page, ps, namespace, container and task seen by ctr, stop, rm, gone",
  {},
  async (t, docker) => {
    // P04: one dockerd, its socket answers.
    expect(await docker.must("info", "--format", "{{.ServerVersion}}")).toStartWith("20.10");
    // P05
    const id = await docker.must(
      "run",
      "-d",
      "--name",
      "web",
      "-p",
      "8080:80",
      DOCKER_IMAGE,
      "sh",
      "-c",
      "echo the page >/tmp/index.html; exec httpd -f -p 80 -h /tmp",
    );
    expect(id).toMatch(/^[0-9a-f]{64}$/);
    const page = await eventually("the page", async () => {
      const got = await docker.inNetwork("busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/");
      return got.code === 0 ? got.stdout : undefined;
    });
    expect(page).toBe("the page\n");
    // P06
    expect(await docker.must("ps", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.Status}} {{.Ports}}")).toMatch(
      RegExp(`^${id} web Up .*0.0.0.0:8080->80/tcp`),
    );
    // P07
    const namespaces = await t.daemon.ctrPlain(t.cast.client, ["namespaces", "ls"]);
    expect(namespaces.stdout).toMatch(/^moby\b/m);
    // P08
    const containers = await t.daemon.ctr(t.cast.client, "moby", ["containers", "ls"]);
    expect(containers.stdout).toMatch(RegExp(`^${id}\\s+-\\s+io\\.containerd\\.runc\\.v2\\s*$`, "m"));
    // P09
    const tasks = await t.daemon.ctr(t.cast.client, "moby", ["tasks", "ls"]);
    const pid = await docker.inspect(id, "{{.State.Pid}}");
    expect(tasks.stdout).toMatch(RegExp(`^${id}\\s+${pid}\\s+RUNNING`, "m"));
    expect(await readFile(`/proc/${pid}/cmdline`, "utf8")).toStartWith("httpd");
    // P10
    expect(await docker.must("stop", "-t", "1", "web")).toBe("web");
    expect(await docker.must("ps", "-q")).toBe("");
    expect(await docker.must("rm", "web")).toBe("web");
    expect(await listed(t, "containers")).toEqual([]);
    expect(await listed(t, "tasks")).toEqual([]);
    expect(await docker.must("ps", "-aq")).toBe("");
  },
);

dockerRow(
  "P05",
  "run in every form: output, input, statuses, users, init, terminal, failures",
  { casts: MIXED },
  async (_t, docker) => {
    expect(await docker.docker("run", "--rm", DOCKER_IMAGE, "sh", "-c", "echo out; echo err >&2; exit 7")).toEqual({
      code: 7,
      stdout: "out\n",
      stderr: "err\n",
    });
    const piped = await docker.dockerWith({ stdin: "some\nwords\n" }, "run", "--rm", "-i", DOCKER_IMAGE, "cat");
    expect(piped).toEqual({ code: 0, stdout: "some\nwords\n", stderr: "" });
    const many = await docker.must("run", "--rm", DOCKER_IMAGE, "seq", "1", "20000");
    expect(many.split("\n").length).toBe(20_000);
    expect(await docker.must("run", "--rm", "--user", "1000:1001", DOCKER_IMAGE, "id", "-u")).toBe("1000");
    expect(await docker.must("run", "--rm", "--init", DOCKER_IMAGE, "cat", "/proc/1/cmdline")).toStartWith(
      "/sbin/docker-init",
    );
    const terminal = await docker.dockerWith({ tty: true }, "run", "--rm", "-it", DOCKER_IMAGE, "tty");
    expect(terminal.stdout).toContain("/dev/pts/0\r\n");
    expect(terminal.code).toBe(0);
    const missing = await docker.docker("run", "--rm", DOCKER_IMAGE, "nosuch");
    expect(missing.code).toBe(127);
    expect(missing.stderr).toContain('exec: "nosuch": executable file not found in $PATH: unknown.');
    const forbidden = await docker.docker("run", "--rm", DOCKER_IMAGE, "/etc/passwd");
    expect(forbidden.code).toBe(126);
    // What failed left nothing.
    expect(await docker.must("ps", "-aq")).toBe("");
  },
);

dockerRow("P13", "exec, logs, top, stats, pause, update, kill, restart", {}, async (t, docker) => {
  const id = await docker.must(
    "run",
    "-d",
    "--name",
    "one",
    DOCKER_IMAGE,
    "sh",
    "-c",
    "echo begun; trap 'exit 3' TERM; while :; do sleep 0.1; done",
  );
  await eventually("its log", async () => ((await docker.must("logs", "one")) === "begun" ? true : undefined));

  expect(await docker.docker("exec", "one", "sh", "-c", "echo out; echo err >&2; exit 4")).toEqual({
    code: 4,
    stdout: "out\n",
    stderr: "err\n",
  });
  const typed = await docker.dockerWith(
    { tty: true },
    "exec",
    "-it",
    "-e",
    "A=b",
    "-w",
    "/tmp",
    "one",
    "sh",
    "-c",
    "tty; pwd; echo $A",
  );
  expect(typed.stdout).toContain("/dev/pts/0\r\n/tmp\r\nb\r\n");
  const input = await docker.dockerWith(
    { stdin: "through" },
    "exec",
    "-i",
    "--user",
    "user",
    "one",
    "sh",
    "-c",
    "cat; id -u",
  );
  expect(input.stdout).toBe("through1000\n");
  expect((await docker.docker("exec", "one", "nosuch")).code).toBe(126);
  await docker.must("exec", "-d", "one", "sleep", "500");
  // Its processes, with the exec's own id for each (Tasks.ListPids has it in the details).
  const top = await docker.must("top", "one", "-o", "pid,args");
  expect(top).toMatch(/^\d+\s+sleep 500$/m);
  const [, exec500 = ""] = /^(\d+)\s+sleep 500$/m.exec(top) ?? [];
  const pids = await t.daemon.ctr(t.cast.client, "moby", ["tasks", "ps", id]);
  expect(pids.stdout).toMatch(RegExp(`^${exec500}\\s.*[0-9a-f]{64}`, "m"));

  expect(await docker.must("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.MemUsage}}", "one")).toMatch(
    /^one [2-9] [1-9][\d.]*[KM]iB \/ /,
  );

  await docker.must("pause", "one");
  expect(await docker.inspect("one", "{{.State.Status}}")).toBe("paused");
  expect((await docker.docker("exec", "one", "true")).stderr).toContain("is paused");
  await docker.must("unpause", "one");
  expect(await docker.inspect("one", "{{.State.Status}}")).toBe("running");

  await docker.must(
    "update",
    "--memory",
    "64m",
    "--memory-swap",
    "64m",
    "--cpu-shares",
    "200",
    "--pids-limit",
    "50",
    "one",
  );
  const limit = await readFile(`/sys/fs/cgroup/memory/${docker.cgroup}/${id}/memory.limit_in_bytes`, "utf8").catch(
    () => undefined,
  );
  if (limit !== undefined) expect(limit.trim()).toBe(String(64 << 20));
  expect(await docker.must("exec", "one", "cat", "/proc/1/comm")).toBe("sh");

  // A signal, a new start, a stop by signal and a stop by force.
  const before = await docker.inspect("one", "{{.State.Pid}}");
  await docker.must("kill", "--signal", "TERM", "one");
  await untilInspected(docker, "one", "{{.State.Status}} {{.State.ExitCode}}", "exited 3");
  await docker.must("start", "one");
  expect(await docker.inspect("one", "{{.State.Pid}}")).not.toBe(before);
  await docker.must("restart", "-t", "5", "one");
  await eventually("three starts in the log", async () =>
    (await docker.must("logs", "one")) === "begun\nbegun\nbegun" ? true : undefined,
  );
  await docker.must("kill", "one");
  await untilInspected(docker, "one", "{{.State.Status}} {{.State.ExitCode}}", "exited 137");
  await docker.must("start", "one");
  await docker.must("rm", "-f", "one");
  expect(await listed(t, "containers")).toEqual([]);
});

dockerRow("P13", "out of memory, restart policies, health, events, wait", {}, async (_t, docker) => {
  const events = docker.background("events", "--format", "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}");
  // It has no word for being ready: a first container's events tell.
  await eventually("the event stream", async () => {
    await docker.must("run", "--rm", "--name", "probe", "--network", "none", DOCKER_IMAGE, "true");
    return events.stdout().includes("container die probe") ? true : undefined;
  });

  const oom = await docker.docker(
    "run",
    "--name",
    "oom",
    "--network",
    "none",
    "-m",
    "16m",
    "--memory-swap",
    "16m",
    DOCKER_IMAGE,
    "sh",
    "-c",
    "tail /dev/zero",
  );
  expect(oom.code).toBe(137);
  await untilInspected(docker, "oom", "{{.State.OOMKilled}} {{.State.ExitCode}}", "true 137");

  await docker.must(
    "run",
    "-d",
    "--name",
    "again",
    "--network",
    "none",
    "--restart",
    "on-failure:2",
    DOCKER_IMAGE,
    "sh",
    "-c",
    "echo x; exit 3",
  );
  await untilInspected(docker, "again", "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}", "2 exited 3");
  expect(await docker.must("logs", "again")).toBe("x\nx\nx");

  await docker.must("run", "-d", "--name", "forever", "--network", "none", "--restart", "always", ...SLEEP);
  const pid = Number(await docker.inspect("forever", "{{.State.Pid}}"));
  process.kill(pid, "SIGKILL");
  await untilInspected(docker, "forever", "{{.RestartCount}} {{.State.Status}}", "1 running");

  await docker.must(
    "run",
    "-d",
    "--name",
    "sound",
    "--network",
    "none",
    "--health-cmd",
    "test -e /tmp/good",
    "--health-interval",
    "300ms",
    "--health-retries",
    "1",
    ...SLEEP,
  );
  await untilInspected(docker, "sound", "{{.State.Health.Status}}", "unhealthy");
  await docker.must("exec", "sound", "touch", "/tmp/good");
  await untilInspected(docker, "sound", "{{.State.Health.Status}}", "healthy");

  const waiting = docker.background("wait", "sound");
  await docker.must("stop", "-t", "0", "sound");
  expect(await waiting.exited).toBe(0);
  expect(waiting.stdout()).toBe("137\n");

  const told = events.stdout();
  for (const line of [
    "container create oom",
    "container start oom",
    "container oom oom",
    "container die oom",
    "container die again",
    "container exec_start: /bin/sh -c test -e /tmp/good sound",
    "container health_status: healthy sound",
    "container kill sound",
    "container stop sound",
  ]) {
    expect(told).toContain(`${line}\n`);
  }
});
