import { afterEach, expect, test } from "bun:test";
import { existsSync, openSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { OwnedFd, openNull, pipe, readInto, writeFrom } from "@stevedore/os/fd";
import { openPidfd, pidfdExitStatus, processIdentity, processStat, sendSignal } from "@stevedore/os/process";
import { type Child, spawnChild } from "@stevedore/os/spawn";
import { KeeperClient } from "./client.ts";

const MAIN = new URL("./start.ts", import.meta.url).pathname;

interface World extends AsyncDisposable {
  readonly dir: string;
  readonly socket: string;
  readonly keeper: Child;
  readonly daemon: KeeperClient;
}

const cleanup: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const one of cleanup.splice(0).reverse()) await one();
});

async function until<T>(what: () => T | undefined | false, limitMs = 10_000): Promise<T> {
  const end = performance.now() + limitMs;
  for (;;) {
    const found = what();
    if (found !== undefined && found !== false) return found;
    if (performance.now() > end) throw new Error("waited too long");
    await Bun.sleep(10);
  }
}

function connected(socket: string): KeeperClient | undefined {
  try {
    return KeeperClient.connect(socket);
  } catch {
    return undefined;
  }
}

async function world(): Promise<World> {
  const dir = await mkdtemp(join(tmpdir(), "keeper-"));
  const socket = join(dir, "keeper.sock");
  const keeper = spawnChild([process.execPath, MAIN, "-address", join(dir, "c.sock"), "-socket", socket], {
    env: { PATH: process.env["PATH"] ?? "" },
    stderr: { fd: 2 },
  });
  const made = {
    dir,
    socket,
    keeper,
    [Symbol.asyncDispose]: async () => {
      await keeper[Symbol.asyncDispose]();
      await rm(dir, { recursive: true, force: true });
    },
  };
  cleanup.push(() => made[Symbol.asyncDispose]());
  // It would end by itself as soon as it is needless.
  const daemon = await until(() => connected(socket));
  await daemon.attend();
  cleanup.push(async () => daemon.close());
  return { ...made, daemon };
}

const owner = { namespace: "ns", container: "c", exec: "" };

test("what is held is given back, also after its owner has gone, and dropped when asked", async () => {
  const { socket } = await world();
  const first = KeeperClient.connect(socket);
  const ends = pipe();
  first.hold(owner, { stdin: ends.write, extra: ends.read }, { pid: 1, start: "1" });
  first.hold({ ...owner, exec: "e" }, { stdout: ends.read });
  expect(await first.status()).toMatchObject({ containers: 1, descriptors: 3 });
  first.close();
  new OwnedFd(ends.write).close();
  const second = KeeperClient.connect(socket);
  const taken = await second.take("ns", "c");
  expect(taken.map(({ exec, fds }) => [exec, [...fds.keys()]])).toEqual([
    ["", ["stdin", "extra"]],
    ["e", ["stdout"]],
  ]);
  const writer = taken[0]?.fds.get("stdin");
  expect(writeFrom(writer?.fd ?? -1, new Uint8Array([7]))).toBe(1);
  const buffer = new Uint8Array(4);
  expect(readInto(ends.read, buffer)).toBe(1);
  for (const { fds } of taken) for (const fd of fds.values()) fd.close();
  second.drop(owner, ["stdin"]);
  expect(await second.status()).toMatchObject({ descriptors: 2 });
  expect(readInto(ends.read, buffer)).toBe(0);
  second.drop(owner);
  expect(await second.status()).toMatchObject({ containers: 0, descriptors: 0 });
  new OwnedFd(ends.read).close();
  second.close();
});

test("an orphan's exit is journaled and told, whether its name comes before or after", async () => {
  const { dir, socket, keeper } = await world();
  const client = KeeperClient.connect(socket);
  using none = new OwnedFd(openNull());
  const stdio = { stdin: none.fd, stdout: none.fd, stderr: none.fd };
  const script = `(sleep 0.4; exit 7) & echo $! > ${dir}/pid; (exit 9) & echo $! > ${dir}/early; exit 3`;
  const spawned = await client.spawn({ argv: ["sh", "-c", script], env: { PATH: "/usr/bin:/bin" }, cwd: "/" }, stdio);
  expect(processStat(spawned.pid)?.parent ?? keeper.pid).toBe(keeper.pid);
  const journal = new OwnedFd(openSync(join(dir, "journal"), "a", 0o600));
  expect(await spawned.exited).toEqual({ code: 3 });
  const pid = Number(await readFile(join(dir, "pid"), "utf8"));
  const identity = processIdentity(pid);
  if (identity === undefined) throw new Error("no orphan");
  expect(processStat(pid)?.parent).toBe(keeper.pid);
  const name = { pid, start: String(identity.startTicks) };
  using pidfd = new OwnedFd(openPidfd(pid));
  client.hold(owner, { pidfd: pidfd.fd, journal: journal.fd }, name);
  const exit = await client.watch(name);
  expect(exit).toMatchObject({ pid, code: 7 });
  const lines = (await readFile(join(dir, "journal"), "utf8")).trim().split("\n");
  expect(lines.map((line): unknown => JSON.parse(line))).toMatchObject([
    { what: "exit", exec: "", pid, status: 7, source: "keeper", start: name.start },
  ]);
  const [taken] = await client.take("ns", "c");
  expect(taken?.exit).toMatchObject({ code: 7 });
  for (const fd of taken?.fds.values() ?? []) fd.close();
  // Nobody is told of a process that is no child of the keeper.
  expect(await client.watch({ pid: process.pid, start: "1" })).toBeUndefined();
  const known = pidfdExitStatus(pidfd.fd);
  if (known !== undefined) expect(known).toEqual({ code: 7 });
  client.drop(owner);
  client.close();
  journal.close();
});

test("it ends when the daemon has left and nothing is held, and not before", async () => {
  const { socket, keeper, daemon } = await world();
  expect(await daemon.attend()).toBe(keeper.pid);
  const shim = KeeperClient.connect(socket);
  using none = new OwnedFd(openNull());
  shim.hold(owner, { stdin: none.fd });
  await shim.status();
  expect(await daemon.leave()).toBe(false);
  daemon.close();
  await Bun.sleep(700);
  expect(keeper.status).toBeUndefined();
  const next = KeeperClient.connect(socket);
  await next.attend();
  next.drop(owner);
  expect(await next.leave()).toBe(true);
  expect(await keeper.exited).toEqual({ code: 0 });
  expect(existsSync(socket)).toBe(false);
  await next.closed;
  expect(next.isClosed).toBe(true);
  expect(() => KeeperClient.connect(socket)).toThrow("no such file");
  shim.close();
});

test("a program that is not there is an error; a keeper that is killed fails what waits", async () => {
  const { socket, keeper } = await world();
  const client = KeeperClient.connect(socket);
  using none = new OwnedFd(openNull());
  const stdio = { stdin: none.fd, stdout: none.fd, stderr: none.fd };
  const env = { PATH: "/usr/bin:/bin" };
  await expect(client.spawn({ argv: ["/no/such"], env, cwd: "/" }, stdio)).rejects.toThrow("no such file");
  const sleeping = await client.spawn({ argv: ["sleep", "100"], env, cwd: "/" }, stdio);
  keeper.kill(9);
  expect(await sleeping.exited.catch(String)).toContain("the keeper is gone");
  sendSignal(sleeping.pid, 9);
  expect(await client.status().catch(String)).toContain("the keeper is gone");
});
