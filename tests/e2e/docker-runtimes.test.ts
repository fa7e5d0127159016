// A dockerd that is told of other runtimes: by flag, by container, and as the one for all.
import { expect } from "bun:test";
import { chmod, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { dockerRow, listed, untilInspected } from "../harness/docker-row.ts";
import { DOCKER_IMAGE } from "../harness/dockerd.ts";
import type { CastName, Stage } from "../harness/row.ts";

const MIXED: readonly CastName[] = ["peer", "ours", "our-shim", "their-shim"];

/** A runtime that is runc and notes what it is called for. */
async function install(t: Stage, name: string): Promise<string> {
  const path = join(t.daemon.dir, name);
  await writeFile(path, `#!/bin/sh\necho "$@" >>"$0.calls"\nexec runc "$@"\n`);
  await chmod(path, 0o755);
  return path;
}

/** The ids of containers that a runtime was told to create, in order. */
async function created(t: Stage, name: string): Promise<string[]> {
  const calls = await readFile(join(t.daemon.dir, `${name}.calls`), "utf8").catch(() => "");
  return calls.split("\n").flatMap((line) => /\bcreate\b.* ([0-9a-f]{64})$/.exec(line)?.[1] ?? []);
}

dockerRow(
  "F13",
  "a second runtime, told to dockerd by flag, runs the containers that ask for it, and execs in them",
  { casts: MIXED, flags: async (t) => ["--add-runtime", `second=${await install(t, "second")}`] },
  async (t, docker) => {
    const known = await docker.must("info", "--format", "{{range $name, $_ := .Runtimes}}{{$name}} {{end}}");
    for (const name of ["runc", "second"]) expect(known.split(" ")).toContain(name);
    const [usual, other] = ["usual", "other"];
    const sleep = [DOCKER_IMAGE, "sleep", "1000"];
    await docker.must("run", "-d", "--name", usual, "--network", "none", ...sleep);
    const id = await docker.must("run", "-d", "--name", other, "--network", "none", "--runtime", "second", ...sleep);
    expect(await docker.inspect(usual, "{{.HostConfig.Runtime}}")).toBe("runc");
    expect(await docker.inspect(other, "{{.HostConfig.Runtime}}")).toBe("second");
    expect(await created(t, "second")).toEqual([id]);
    // Both run at once, side by side, and answer alike.
    for (const name of [usual, other]) {
      const said = await docker.docker("exec", name, "sh", "-c", "echo here; exit 6");
      expect(said).toEqual({ code: 6, stdout: "here\n", stderr: "" });
    }
    const calls = await readFile(join(t.daemon.dir, "second.calls"), "utf8");
    expect(calls).toMatch(RegExp(`\\bexec\\b.* ${id}$`, "m"));
    expect(
      await docker.must("run", "--rm", "--network", "none", "--runtime", "second", DOCKER_IMAGE, "echo", "x"),
    ).toBe("x");
    await docker.must("restart", "-t", "0", other);
    expect(await created(t, "second")).toHaveLength(3);
    await docker.must("kill", other);
    await untilInspected(docker, other, "{{.State.Status}} {{.State.ExitCode}}", "exited 137");
    const unknown = await docker.docker("run", "--rm", "--runtime", "third", DOCKER_IMAGE, "true");
    expect(unknown.code).toBe(125);
    expect(unknown.stderr).toContain("nknown runtime specified third");
    await docker.must("rm", "-f", usual, other);
    expect(await listed(t, "containers")).toEqual([]);
    expect(await listed(t, "tasks")).toEqual([]);
  },
);

dockerRow(
  "F13",
  "another default runtime runs what names none, and one that is not there is told",
  {
    casts: MIXED,
    flags: async (t) => [
      "--add-runtime",
      `second=${await install(t, "second")}`,
      "--add-runtime",
      `broken=${join(t.daemon.dir, "nowhere")}`,
      "--default-runtime",
      "second",
    ],
  },
  async (t, docker) => {
    expect(await docker.must("info", "--format", "{{.DefaultRuntime}}")).toBe("second");
    const run = ["run", "--network", "none"];
    const id = await docker.must(...run, "-d", "--name", "one", DOCKER_IMAGE, "sleep", "1000");
    expect(await created(t, "second")).toEqual([id]);
    expect(await docker.must(...run, "--rm", "--runtime", "runc", DOCKER_IMAGE, "echo", "runc's own")).toBe(
      "runc's own",
    );
    expect(await created(t, "second")).toEqual([id]);
    const broken = await docker.docker(...run, "--name", "two", "--runtime", "broken", DOCKER_IMAGE, "true");
    expect(broken.code).not.toBe(0);
    expect(broken.stderr).toContain("nowhere");
    // Its failure is its own: the others go on, and nothing of it is left in containerd.
    expect(await docker.must("exec", "one", "echo", "on")).toBe("on");
    expect(await listed(t, "tasks")).toEqual([id]);
    await docker.must("rm", "-f", "one", "two");
    expect(await listed(t, "containers")).toEqual([]);
  },
);
