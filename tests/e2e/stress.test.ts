// containerd-stress, against our daemon and Debian's. Debian's package has no containerd-stress, so ours drives both.
import { expect } from "bun:test";
import { writeFile } from "node:fs/promises";
import { isNumber, recordOf } from "../../tools/json.ts";
import { program } from "../harness/daemon.ts";
import { IMAGE, ociArchive } from "../harness/images.ts";
import { eventually, exec, type Result, start } from "../harness/process.ts";
import { row, type Stage } from "../harness/row.ts";

const BOTH = { casts: ["ours", "our-ctr"] } as const;

const STRESS = program("ours", "containerd-stress");

/** Puts the test image into a namespace that containerd-stress works in. */
async function imageIn(t: Stage, namespace: string, options: { readonly user?: string } = {}): Promise<void> {
  const archive = t.path(t.id("image.tar"));
  const config = options.user === undefined ? {} : { config: { User: options.user } };
  await writeFile(archive, await ociArchive(config));
  const ran = await t.daemon.ctr(t.cast.client, namespace, ["images", "import", archive]);
  expect(ran).toMatchObject({ code: 0 });
}

async function stress(t: Stage, ...args: string[]): Promise<Result> {
  return exec([STRESS, "--address", t.daemon.address, "--image", IMAGE, ...args]);
}

/** The report of a test: its fields are all numbers. */
function figures(stdout: string): Readonly<Record<string, number>> {
  const report: unknown = JSON.parse(stdout);
  if (!recordOf(isNumber)(report)) throw new Error(`not a report: ${stdout}`);
  return report;
}

async function leftIn(t: Stage, namespace: string): Promise<string> {
  const containers = await t.daemon.ctr("debian", namespace, ["containers", "ls", "-q"]);
  const tasks = await t.daemon.ctr("debian", namespace, ["tasks", "ls", "-q"]);
  const active = (await t.daemon.ctr("debian", namespace, ["snapshots", "ls"])).stdout
    .split("\n")
    .filter((line) => /\b(Active|View)\b/.test(line));
  return `${containers.stdout}${tasks.stdout}${active.join("\n")}`;
}

row(
  "A20",
  "four workers make and remove containers, report them and leave none",
  {
    ...BOTH,
    covers: [
      "cmd:containerd-stress",
      "flag:containerd-stress --address",
      "flag:containerd-stress --concurrent",
      "flag:containerd-stress --duration",
      "flag:containerd-stress --image",
    ],
  },
  async (t) => {
    await imageIn(t, "stress");
    const ran = await stress(t, "-c", "4", "-d", "1500ms");
    expect(ran).toMatchObject({ code: 0, stdout: "" });
    for (const worker of [0, 1, 2, 3]) expect(ran.stderr).toContain(`level=info msg="worker ${worker} finished"`);
    expect(ran.stderr).toMatch(/level=info msg="ending test run in [12]\d*\.\d{3} seconds"/);
    const line =
      /level=info msg="create\/start\/delete (\d+) containers in \d+\.\d{3} seconds \(\d+\.\d{3} c\/sec\) or \(\d+\.\d{3} sec\/c\)" failures=0\n/;
    expect(Number(line.exec(ran.stderr)?.[1])).toBeGreaterThanOrEqual(4);
    expect(await leftIn(t, "stress")).toBe("");
  },
);

row(
  "A20",
  "--json is one object and no talk; --exec adds processes to running containers",
  { ...BOTH, covers: ["flag:containerd-stress --json", "flag:containerd-stress --exec"] },
  async (t) => {
    await imageIn(t, "stress", { user: "user" });
    const ran = await stress(t, "--json", "--exec", "-c", "2", "-d", "1s");
    expect(ran).toMatchObject({ code: 0, stderr: "" });
    const report = figures(ran.stdout);
    expect(Object.keys(report)).toEqual([
      "total",
      "failures",
      "seconds",
      "containersPerSecond",
      "secondsPerContainer",
      "execTotal",
      "execFailures",
    ]);
    expect(report).toMatchObject({ failures: 0, execFailures: 0 });
    const { total = 0, seconds = 0, containersPerSecond = 0, execTotal } = report;
    expect(total).toBeGreaterThanOrEqual(2);
    expect(execTotal).toBeGreaterThanOrEqual(2);
    expect(containersPerSecond).toBeCloseTo(total / seconds, 6);
    expect(await leftIn(t, "stress")).toBe("");
  },
);

row(
  "A20",
  "failures are counted, said and no reason to stop; another runtime and snapshotter are used",
  {
    ...BOTH,
    covers: [
      "flag:containerd-stress --runtime",
      "flag:containerd-stress --snapshotter",
      "flag:containerd-stress --debug",
    ],
  },
  async (t) => {
    await imageIn(t, "stress");
    const ran = await stress(t, "--debug", "--json", "--runtime", "io.example.none.v1", "-d", "10ms");
    expect(ran.code).toBe(0);
    expect(ran.stderr).toContain('level=debug msg="starting container 0-1"');
    expect(ran.stderr).toMatch(/level=error msg="running container 0-1" error=".*containerd-shim-none-v1/);
    const { total, failures } = figures(ran.stdout);
    expect(total).toBeGreaterThanOrEqual(1);
    expect(failures).toBe(total ?? 0);
    expect(await leftIn(t, "stress")).toBe("");

    const native = await stress(t, "--json", "--snapshotter", "native", "-d", "10ms");
    expect(native).toMatchObject({ code: 0, stderr: "" });
    expect(JSON.parse(native.stdout)).toMatchObject({ failures: 0 });
    const snapshots = await t.daemon.ctr("debian", "stress", ["snapshots", "--snapshotter", "native", "ls"]);
    expect(snapshots.stdout).toContain("Committed");
  },
);

row(
  "A20",
  "--metrics serves times and errors while the test runs",
  { ...BOTH, covers: ["flag:containerd-stress --metrics"] },
  async (t) => {
    await imageIn(t, "stress");
    // The kernel gives a free port; somebody else may take it in between, which the program would say.
    const free = Bun.serve({ port: 0, fetch: () => new Response() });
    const address = `127.0.0.1:${free.port}`;
    await free.stop(true);
    const flags = ["--address", t.daemon.address, "--image", IMAGE, "-m", address, "-d", "30s"];
    const running = start([STRESS, ...flags]);
    try {
      const text = await eventually("a container's time among the metrics", async () => {
        const answer = await fetch(`http://${address}/metrics`).catch(() => undefined);
        const body = (await answer?.text()) ?? "";
        return body.includes("stress_run_seconds_count") ? body : undefined;
      });
      const revision = [...(await t.must("version")).matchAll(/Revision:\s+(\S+)/g)].at(-1)?.[1] ?? "";
      expect(text).toContain(`stress_run_seconds_bucket{commit="${revision}",le="+Inf"}`);
      for (const name of ["stress_binary_size_bytes", "stress_errors_total", "stress_exec_seconds"])
        expect(text).toContain(`# TYPE ${name} `);
    } finally {
      // An interrupt ends the test early: what runs is finished and removed, and the report comes.
      expect(await running.stop("SIGINT")).toBe(0);
    }
    expect(running.stderr()).toContain("create/start/delete ");
    expect(await leftIn(t, "stress")).toBe("");
  },
);

row(
  "A20",
  "density reports the shims' memory, and clears what an earlier run left",
  { ...BOTH, covers: ["cmd:containerd-stress density", "flag:containerd-stress density --count"] },
  async (t) => {
    await imageIn(t, "density");
    const left = await t.daemon.ctr(t.cast.client, "density", [
      "run",
      "-d",
      "--null-io",
      IMAGE,
      "left",
      "sleep",
      "100",
    ]);
    expect(left).toMatchObject({ code: 0 });
    const ran = await stress(t, "density", "--count", "3");
    expect(ran.code).toBe(0);
    const { pss = 0, rss = 0, pssPerContainer, rssPerContainer } = figures(ran.stdout);
    // KiB: a shim of either maker has more than one MiB resident.
    expect(rss).toBeGreaterThan(1024);
    expect(pss).toBeLessThanOrEqual(rss);
    expect([pssPerContainer, rssPerContainer]).toEqual([Math.trunc(pss / 3), Math.trunc(rss / 3)]);
    expect(await leftIn(t, "density")).toBe("");
  },
);

row("A20", "what it cannot do is said: no image, no CRI, no workers", BOTH, async (t) => {
  const missing = await stress(t, "-i", "docker.io/library/nothing:1");
  expect(missing).toMatchObject({ code: 1, stdout: "" });
  expect(missing.stderr).toContain('image "docker.io/library/nothing:1" in namespace "stress"');
  expect(missing.stderr).toContain('import it with "ctr -n stress images import"');
  const cri = await stress(t, "--cri");
  expect(cri).toMatchObject({ code: 1, stdout: "" });
  expect(cri.stderr).toEndWith("--cri is not in this version, it waits for the CRI service: not implemented\n");
  expect(await stress(t, "-c", "0")).toMatchObject({ code: 1 });
  expect(await stress(t, "density", "--count", "0")).toMatchObject({ code: 1 });
});

row(
  "A18",
  "containerd-stress answers --version",
  { casts: ["ours"], covers: ["flag:containerd-stress --version"] },
  async () => {
    const ran = await exec([STRESS, "--version"]);
    expect(ran).toMatchObject({ code: 0, stderr: "" });
    expect(ran.stdout).toMatch(/^containerd-stress github\.com\/containerd\/containerd\/v2 v2\.\d+\.\d+\S*\n$/);
  },
);
