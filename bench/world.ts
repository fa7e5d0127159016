// What the benchmarks stand on: fresh memory file systems, timed commands, memory of processes.
import { mkdtemp, readdir, readFile, rmdir } from "node:fs/promises";
import { join } from "node:path";
import { Daemon, type Maker, processesNaming } from "../tests/harness/daemon.ts";
import { exec } from "../tests/harness/process.ts";

/** Both sides, in the order their columns stand. */
export const MAKERS = ["ours", "debian"] as const satisfies readonly Maker[];

/** The name the small image's archive gives it. */
export const SMALL_IMAGE = "docker.io/library/busybox:test";
/** Both daemons keep runc's state below one root by namespace: each side has its own, and so has each run. */
export function namespaceOf(maker: Maker): string {
  return `bench-${maker}-${process.pid}`;
}

const COMMAND_LIMIT_MS = 180_000;

/** A fresh tmpfs; disposing takes it down. Sized for the archive, its blobs and its unpacked layers twice. */
export async function tmpfs(stack: AsyncDisposableStack): Promise<string> {
  const point = await mkdtemp("/tmp/stv-bench-");
  stack.defer(() => rmdir(point));
  await succeed(["mount", "-t", "tmpfs", "-o", "size=3g", "stevedore-bench", point]);
  stack.defer(async () => {
    await succeed(["umount", point]);
  });
  return point;
}

/** A daemon whose whole folder is below `parent`, or on the disk that holds /tmp. */
export async function daemonIn(maker: Maker, parent: string): Promise<Daemon> {
  const before = process.env["TMPDIR"];
  process.env["TMPDIR"] = parent;
  try {
    return await Daemon.start({ maker });
  } finally {
    if (before === undefined) delete process.env["TMPDIR"];
    else process.env["TMPDIR"] = before;
  }
}

/** Removes the empty folders and cgroups that runc leaves for a namespace. */
export async function sweepNamespaces(): Promise<void> {
  const cgroups = (await readdir("/sys/fs/cgroup")).map((name) => join("/sys/fs/cgroup", name));
  for (const maker of MAKERS) {
    for (const parent of ["/run/containerd/runc", "/sys/fs/cgroup", ...cgroups]) {
      await rmdir(join(parent, namespaceOf(maker))).catch(() => undefined);
    }
  }
}

/** Runs a command that must succeed. @returns its standard output. */
export async function succeed(command: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<string> {
  const { code, stdout, stderr } = await exec(command, { env, timeoutMs: COMMAND_LIMIT_MS });
  if (code !== 0) throw new Error(`${command.join(" ")}: exit ${code}: ${stderr.trim()}`);
  return stdout;
}

/** Runs a command that must succeed with its output thrown away. @returns milliseconds from start to its end. */
export async function timed(
  command: readonly string[],
  options: { readonly stdin?: string; readonly env?: Readonly<Record<string, string>> } = {},
): Promise<number> {
  const start = performance.now();
  const child = Bun.spawn([...command], {
    env: { PATH: process.env["PATH"] ?? "", HOME: "/root", ...options.env },
    stdin: options.stdin === undefined ? "ignore" : Bun.file(options.stdin),
    stdout: "ignore",
    stderr: "pipe",
    timeout: COMMAND_LIMIT_MS,
    killSignal: "SIGKILL",
  });
  const code = await child.exited;
  const elapsed = performance.now() - start;
  if (code !== 0) throw new Error(`${command.join(" ")}: exit ${code}: ${await new Response(child.stderr).text()}`);
  return elapsed;
}

/** Proportional memory of all processes of a daemon (itself, shims, workers), in MB. */
export async function memoryOf(daemon: Daemon): Promise<number> {
  let kilobytes = 0;
  const pids = new Set([daemon.pid, ...(await processesNaming(daemon.dir)).map(({ pid }) => pid)]);
  for (const pid of pids) {
    const rollup = await readFile(join("/proc", String(pid), "smaps_rollup"), "utf8").catch(() => "");
    kilobytes += Number(/^Pss:\s+(\d+)/m.exec(rollup)?.[1] ?? 0);
  }
  return kilobytes / 1024;
}
