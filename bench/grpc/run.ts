// The gRPC carrier beside the peer: unary calls by one neutral client against both daemons, and the start of a command
// line with our client beside the peer's ctr. Runs are interleaved; raw samples go to build/bench/grpc.json.
// Needs Debian's containerd and python3-grpcio; run it as `bun bench/grpc/run.ts [RUNS]`.
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { Router } from "@stevedore/wire";
import { Version } from "@stevedore/wire/gen/containerd/services/version/v1/version_pb";

/** Pairs of runs; fewer than 31 say little of the tail. */
const RUNS = Number(process.argv[2] ?? "31");
const CALLS = 2000;
const ROOT = resolve(import.meta.dir, "../..");

interface Samples {
  readonly name: string;
  readonly unit: "ms" | "calls/s";
  readonly values: number[];
}

function summary({ name, unit, values }: Samples): string {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (part: number): string => (sorted[Math.floor((sorted.length - 1) * part)] ?? Number.NaN).toFixed(2);
  return `${name.padEnd(40)} median ${at(0.5)}  p99 ${at(0.99)}  best ${unit === "ms" ? at(0) : at(1)} ${unit}  (${sorted.length})`;
}

async function untilAnswering(socket: string): Promise<void> {
  for (let i = 0; i < 200; i++) {
    const answered = await Bun.connect({ unix: socket, socket: { data: () => undefined } }).then(
      (made) => {
        made.end();
        return true;
      },
      () => false,
    );
    if (answered) return;
    await Bun.sleep(50);
  }
  throw new Error(`nobody listens on ${socket}`);
}

async function runClient(
  socket: string,
  inFlight: number,
): Promise<{ readonly perSecond: number; readonly ms: number[] }> {
  const command = ["/usr/bin/python3", join(import.meta.dir, "client.py"), socket, String(CALLS), String(inFlight)];
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "inherit" });
  const result: unknown = JSON.parse(await new Response(child.stdout).text());
  const seconds: unknown = typeof result === "object" && result !== null ? Reflect.get(result, "seconds") : undefined;
  const ms: unknown = typeof result === "object" && result !== null ? Reflect.get(result, "ms") : undefined;
  if (typeof seconds !== "number" || !Array.isArray(ms)) throw new Error("client.py printed no result");
  return { perSecond: CALLS / seconds, ms: ms.filter((each) => typeof each === "number") };
}

async function timed(command: readonly string[]): Promise<number> {
  const start = performance.now();
  const code = await Bun.spawn([...command], { stdout: "ignore", stderr: "inherit", stdin: "ignore" }).exited;
  if (code !== 0) throw new Error(`${command.join(" ")}: exit ${code}`);
  return performance.now() - start;
}

async function serve(socket: string): Promise<void> {
  const { createGrpcServer } = await import("@stevedore/wire/grpc/server");
  const router = new Router().service(Version, { version: async () => ({ version: "2.3.4", revision: "bench" }) });
  await createGrpcServer({ router }).serveUnix(socket);
}

async function main(): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const folder = await mkdtemp(join(tmpdir(), "bench-grpc-"));
  stack.defer(() => rm(folder, { recursive: true, force: true }));

  const peerSocket = join(folder, "peer.sock");
  await writeFile(
    join(folder, "peer.toml"),
    `version = 2
root = "${folder}/root"
state = "${folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "${peerSocket}"
[ttrpc]
  address = "${folder}/ttrpc.sock"
`,
  );
  const start = (command: readonly string[]): void => {
    const child = Bun.spawn([...command], { stdout: "ignore", stderr: "ignore", stdin: "ignore" });
    stack.defer(async () => {
      child.kill();
      await child.exited;
    });
  };
  start(["containerd", "-c", join(folder, "peer.toml")]);
  const ourSocket = join(folder, "ours.sock");
  start([process.execPath, import.meta.path, "--serve", ourSocket]);
  const program = join(folder, "start");
  const build = Bun.spawn(
    `${process.execPath} build --compile --bytecode --format=esm --splitting --minify ${join(import.meta.dir, "start.ts")} --outfile ${program}`.split(
      " ",
    ),
    { stdout: "ignore", stderr: "inherit" },
  );
  if ((await build.exited) !== 0) throw new Error("build of start.ts failed");
  await Promise.all([untilAnswering(peerSocket), untilAnswering(ourSocket)]);

  const samples = new Map<string, Samples>();
  const add = (name: string, unit: Samples["unit"], ...values: readonly number[]): void => {
    const known = samples.get(name) ?? { name, unit, values: [] };
    known.values.push(...values);
    samples.set(name, known);
  };
  for (let run = 0; run < RUNS; run++) {
    for (const [side, socket] of [
      ["ours", ourSocket],
      ["peer", peerSocket],
    ] as const) {
      for (const inFlight of [1, 16]) {
        const { perSecond, ms } = await runClient(socket, inFlight);
        add(`${side}: Version, ${inFlight} in flight`, "ms", ...ms);
        add(`${side}: Version, ${inFlight} in flight, rate`, "calls/s", perSecond);
      }
    }
    add("ours: start to the server's version", "ms", await timed([program, peerSocket]));
    add("peer: ctr version", "ms", await timed(["ctr", "-a", peerSocket, "version"]));
  }
  for (const each of samples.values()) process.stdout.write(`${summary(each)}\n`);
  const out = join(ROOT, "build/bench");
  await mkdir(out, { recursive: true });
  await writeFile(join(out, "grpc.json"), JSON.stringify([...samples.values()]));
}

void (process.argv[2] === "--serve" ? serve(process.argv[3] ?? "") : main());
