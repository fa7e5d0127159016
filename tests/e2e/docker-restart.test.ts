// Docker's live-restore: containers live through the end of the containerd they run on, and of dockerd.
import { expect } from "bun:test";
import { dockerRow, listed, untilInspected } from "../harness/docker-row.ts";
import { DOCKER_IMAGE, type Dockerd } from "../harness/dockerd.ts";
import { eventually } from "../harness/process.ts";

const LIVES = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done";

/** Each number once and in order, as far as the log goes. */
function expectCounting(log: string): number {
  const lines = log.split("\n");
  expect(lines).toEqual(lines.map((_, index) => String(index + 1)));
  return lines.length;
}

/** Runs `one`, which counts, and `short`, which ends with 5 once its /tmp/go is there. */
async function runBoth(docker: Dockerd): Promise<void> {
  const command = "until test -e /tmp/go; do sleep 0.05; done; exit 5";
  await docker.must("run", "-d", "--name", "one", DOCKER_IMAGE, "sh", "-c", LIVES);
  await docker.must("run", "-d", "--name", "short", DOCKER_IMAGE, "sh", "-c", command);
}

for (const signal of ["SIGTERM", "SIGKILL"] as const) {
  dockerRow("P12", `containers live through containerd's end by ${signal}`, {}, async (t, docker) => {
    await runBoth(docker);
    const pid = await docker.inspect("one", "{{.State.Pid}}");
    const shortPid = await docker.inspect("short", "{{.State.Pid}}");
    await t.daemon.stop(signal);
    const whileGone = expectCounting(await docker.must("logs", "one"));
    await t.daemon.launch();
    await eventually(
      "dockerd to reach it again",
      async () => ((await docker.docker("exec", "one", "true")).code === 0 ? true : undefined),
      30_000,
    );
    expect(await docker.inspect("one", "{{.State.Status}} {{.State.Pid}}")).toBe(`running ${pid}`);
    await eventually("its output to go on", async () =>
      expectCounting(await docker.must("logs", "one")) > whileGone + 5 ? true : undefined,
    );
    expect((await listed(t, "tasks")).length).toBe(2);
    // An exit after the restart reaches dockerd.
    expect(await docker.inspect("short", "{{.State.Pid}}")).toBe(shortPid);
    // It may end before the exec does.
    await docker.docker("exec", "short", "touch", "/tmp/go");
    await untilInspected(docker, "short", "{{.State.Status}} {{.State.ExitCode}}", "exited 5");
    await docker.must("stop", "-t", "0", "one");
    await docker.must("rm", "one", "short");
    expect(await listed(t, "containers")).toEqual([]);
  });

  dockerRow("P12", `containers live through dockerd's end by ${signal}`, {}, async (t, docker) => {
    await runBoth(docker);
    await docker.must("exec", "-d", "short", "sh", "-c", "sleep 2; touch /tmp/go");
    const pid = await docker.inspect("one", "{{.State.Pid}}");
    await docker.stop(signal);
    expect((await listed(t, "tasks")).length).toBe(2);
    // One ends while nobody follows.
    await eventually("the short one's end", async () => {
      const { stdout } = await t.daemon.ctr(t.cast.client, "moby", ["tasks", "ls"]);
      return stdout.includes("STOPPED") ? true : undefined;
    });
    await docker.launch();
    expect(await docker.inspect("one", "{{.State.Status}} {{.State.Pid}}")).toBe(`running ${pid}`);
    await untilInspected(docker, "short", "{{.State.Status}} {{.State.ExitCode}}", "exited 5");
    expect((await docker.docker("exec", "one", "true")).code).toBe(0);
    const before = (await docker.must("logs", "one")).split("\n").length;
    await eventually("its output to go on", async () =>
      (await docker.must("logs", "one")).split("\n").length > before + 5 ? true : undefined,
    );
    await docker.must("rm", "-f", "one", "short");
    expect(await listed(t, "containers")).toEqual([]);
  });
}
