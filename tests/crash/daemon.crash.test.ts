// The daemon is killed at random moments of all that clients do at once. What it had acknowledged is there afterwards,
// containers go on and are reachable, and once everything is deleted and collected nothing is left. The same with a full disk.
import { expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Daemon } from "../harness/daemon.ts";
import { ociArchive } from "../harness/images.ts";
import { exec, type Result } from "../harness/process.ts";
import { tar } from "../harness/tar.ts";
import {
  clientEnvironment,
  LANE_MS,
  randomFrom,
  removeOfClients,
  SEED,
  settle,
  shims,
  storeLeftovers,
  taskLeftovers,
} from "./leftovers.ts";

/** What one round may take besides the lane's time: a machine with much to do. */
const LIMIT_MS = 180_000;
/** The kill comes within this time of the round's beginning. */
const LONGEST_LIFE_MS = 1_500;
/** Room for a few images and containers, so that it is full before a round ends. */
const SMALL_DISK = "14m";

type Phase = "import" | "run" | "exec" | "delete" | "commit" | "ingest";

/** What the daemon has acknowledged, by round. */
class Promised {
  readonly images = new Set<string>();
  readonly running = new Set<string>();
  readonly gone = new Set<string>();
  readonly snapshots = new Set<string>();
  readonly blobs = new Set<string>();
}

const DISKS = [
  { what: "a disk with room", full: false },
  { what: "a full disk", full: true },
];

for (const { what, full } of DISKS) {
  test(
    `A01 F30: a killed daemon loses nothing it has acknowledged, ${what}`,
    async () => {
      const random = randomFrom(SEED);
      const end = performance.now() + LANE_MS / DISKS.length;
      const namespace = `stvcrash${process.pid}-${Date.now()}`;
      const daemon = await Daemon.prepare({ maker: "ours" });
      await using cleanup = new AsyncDisposableStack();
      cleanup.defer(() => daemon.close());
      await mkdir(daemon.root, { recursive: true });
      if (full) {
        const mounted = await exec(["mount", "-t", "tmpfs", "-o", `size=${SMALL_DISK}`, "tmpfs", daemon.root]);
        expect(mounted.code).toBe(0);
        cleanup.defer(async () => {
          if (daemon.running) await daemon.clear(namespace);
          if (daemon.running) await daemon.stop();
          await exec(["umount", "-l", daemon.root]);
        });
      }
      await daemon.launch();
      daemon.use(namespace);
      const env = await clientEnvironment(daemon);

      const ctr = async (...args: string[]): Promise<Result> =>
        daemon.ctr("ours", namespace, args, { timeoutMs: 60_000, env });
      const lines = async (...args: string[]): Promise<string[]> => {
        const ran = await ctr(...args);
        if (ran.code !== 0) throw new Error(`ctr ${args.join(" ")}: ${ran.stderr}`);
        return ran.stdout.split("\n").filter((line) => line !== "");
      };
      const archive = async (name: string): Promise<string> => {
        const path = join(daemon.dir, `${name}.tar`);
        const extra = tar([{ path: "name", data: name }]);
        await writeFile(path, await ociArchive({ name: `docker.io/library/${name}:test`, layers: [extra] }));
        return path;
      };
      const archives = [await archive("base"), await archive("one"), await archive("two"), await archive("three")];
      const [base = ""] = archives;
      const image = "docker.io/library/base:test";
      const interrupted: Record<Phase, number> = { import: 0, run: 0, exec: 0, delete: 0, commit: 0, ingest: 0 };
      let counter = 0;

      /** What was given for each ref, to go on with it after a kill. */
      const texts = new Map<string, string>();
      const ingest = async (ref: string): Promise<Result> => {
        const text = texts.get(ref) ?? "";
        const args = ["content", "ingest", "--expected-size", String(text.length), ref];
        return daemon.ctr("ours", namespace, args, { stdin: text, timeoutMs: 60_000, env });
      };

      /** One command of a client; counted when the kill comes during it. */
      const step = async (phase: Phase, killed: AbortSignal, work: () => Promise<Result>): Promise<boolean> => {
        const ran = await work();
        if (killed.aborted && ran.code !== 0) interrupted[phase] += 1;
        return ran.code === 0;
      };

      const clients = (promised: Promised, killed: AbortSignal): (() => Promise<void>)[] => [
        async () => {
          const which = archives[1 + Math.floor(random() * (archives.length - 1))] ?? base;
          const name = `docker.io/library/${/([a-z]+)\.tar$/.exec(which)?.[1] ?? ""}:test`;
          if (await step("import", killed, () => ctr("images", "import", which))) promised.images.add(name);
        },
        async () => {
          const id = `r${++counter}`;
          if (!(await step("run", killed, () => ctr("run", "-d", image, id, "sleep", "1000")))) return;
          promised.running.add(id);
          await step("exec", killed, () => ctr("tasks", "exec", "--exec-id", "x", id, "true"));
          if (random() < 0.5) return;
          promised.running.delete(id);
          if (!(await step("delete", killed, () => ctr("tasks", "rm", "--force", id)))) return;
          if (await step("delete", killed, () => ctr("containers", "rm", id))) promised.gone.add(id);
        },
        async () => {
          const key = `s${++counter}`;
          if (!(await step("commit", killed, () => ctr("snapshots", "prepare", `${key}-active`)))) return;
          if (await step("commit", killed, () => ctr("snapshots", "commit", key, `${key}-active`)))
            promised.snapshots.add(key);
        },
        async () => {
          const text = `${counter++}:${"x".repeat(Math.floor(random() * 300_000))}`;
          const digest = `sha256:${createHash("sha256").update(text).digest("hex")}`;
          const ref = `ref-${counter}`;
          texts.set(ref, text);
          if (await step("ingest", killed, () => ingest(ref))) promised.blobs.add(digest);
        },
      ];

      const check = async (promised: Promised): Promise<string[]> => {
        const lost: string[] = [];
        const missing = (kind: string, wanted: ReadonlySet<string>, found: readonly string[]): void => {
          for (const one of wanted)
            if (!found.some((line) => line.split(/\s+/).includes(one))) lost.push(`${kind} ${one}`);
        };
        missing("image", promised.images, await lines("images", "ls", "-q"));
        const checked = await lines("images", "check");
        for (const name of promised.images)
          if (!checked.some((line) => line.startsWith(name) && line.includes(" complete ")))
            lost.push(`content of ${name}`);
        const tasks = await lines("tasks", "ls");
        for (const id of promised.running) {
          if (!tasks.some((line) => RegExp(`^${id}\\s+\\d+\\s+RUNNING`).test(line))) lost.push(`task ${id}`);
          const said = await ctr("tasks", "exec", "--exec-id", "after", id, "echo", "here");
          if (said.stdout !== "here\n" && !(full && said.stderr.includes("no space left")))
            lost.push(`reach of ${id}: ${said.stderr}`);
        }
        for (const id of promised.gone) if (tasks.some((line) => line.startsWith(`${id} `))) lost.push(`end of ${id}`);
        missing("snapshot", promised.snapshots, await lines("snapshots", "ls"));
        missing("blob", promised.blobs, await lines("content", "ls", "-q"));
        for (const digest of promised.blobs) {
          const got = await ctr("content", "get", digest);
          const found = `sha256:${createHash("sha256").update(got.stdout).digest("hex")}`;
          if (found !== digest) lost.push(`bytes of ${digest}: ${got.stdout.length} bytes, ${got.stderr}`);
        }
        return lost;
      };

      /** Deletes everything, as often as it takes: what a killed daemon was about to do appears meanwhile. */
      const emptied = async (): Promise<string[]> => {
        for (const id of await lines("tasks", "ls", "-q")) await ctr("tasks", "rm", "--force", id);
        for (const id of await lines("containers", "ls", "-q")) await ctr("containers", "rm", id);
        for (const line of (await lines("snapshots", "ls")).slice(1).toReversed())
          await ctr("snapshots", "rm", line.split(/\s+/)[0] ?? "");
        // Nothing but its end takes an ingest without a lease away for a day: it goes on where it was.
        for (const line of (await lines("content", "active")).slice(1)) {
          const ref = line.split(/\s+/)[0] ?? "";
          if (texts.has(ref)) await ingest(ref);
        }
        const images = await lines("images", "ls", "-q");
        if (images.length > 0) await ctr("images", "rm", "--sync", ...images);
        for (const digest of await lines("content", "ls", "-q")) await ctr("content", "rm", digest);
        for (const lease of await lines("leases", "ls", "-q")) await ctr("leases", "rm", "--sync", lease);
        return [...(await taskLeftovers(daemon, namespace)), ...(await storeLeftovers(daemon))];
      };

      let rounds = 0;
      do {
        rounds += 1;
        const promised = new Promised();
        const imported = await ctr("images", "import", base);
        expect(imported.stderr).toBe("");
        promised.images.add(image);
        const killed = new AbortController();
        const lanes = clients(promised, killed.signal).map(async (client) => {
          while (!killed.signal.aborted) await client();
        });
        await Bun.sleep(random() * LONGEST_LIFE_MS);
        killed.abort();
        await daemon.stop("SIGKILL");
        // Clients may not hang on a daemon that is gone.
        await Promise.all(lanes);
        await daemon.launch();
        const lost = await check(promised);
        const left = await settle(emptied, 20_000);
        if (lost.length + left.length > 0) process.stderr.write(`${(await daemon.log).slice(-8_000)}\n`);
        expect({ rounds, lost, left }).toEqual({ rounds, lost: [], left: [] });
        await removeOfClients(daemon);
      } while (performance.now() < end);
      process.stdout.write(`${rounds} kills, during ${JSON.stringify(interrupted)}\n`);
      await daemon.clear(namespace);
      await daemon.stop();
      expect(await settle(async () => (await shims(daemon)).map(({ command }) => command), 5_000)).toEqual([]);
    },
    LANE_MS + LIMIT_MS,
  );
}
