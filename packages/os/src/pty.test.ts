import { expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readlinkSync, rmSync } from "node:fs";
import { duplicate, statusFlags } from "./fd.ts";
import {
  ConsoleSocket,
  disableNewlineTranslation,
  FdWriter,
  getWindowSize,
  isTerminal,
  makeRaw,
  openPty,
  readChunks,
  setWindowSize,
} from "./pty.ts";
import { connectUnix, sendDescriptors } from "./socket.ts";
import { spawnChild } from "./spawn.ts";

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const text = (value: Uint8Array): string => new TextDecoder().decode(value);

function terminals(): number {
  let count = 0;
  for (const fd of readdirSync("/proc/self/fd")) {
    try {
      if (/ptmx|pts/.test(readlinkSync(`/proc/self/fd/${fd}`))) count++;
    } catch {}
  }
  return count;
}

test("a shell on a terminal sees size, answers, and its end is the end", async () => {
  const before = terminals();
  const { master, slave, name } = openPty();
  expect(name).toMatch(/^\/dev\/pts\/\d+$/);
  expect(isTerminal(slave.fd)).toBe(true);
  setWindowSize(master.fd, { columns: 91, rows: 17 });
  expect(getWindowSize(slave.fd)).toEqual({ columns: 91, rows: 17 });
  await using child = spawnChild(["sh", "-c", "stty size; read line; echo got $line; exit 5"], {
    stdin: { fd: slave.fd },
    stdout: { fd: slave.fd },
    stderr: { fd: slave.fd },
    newSession: true,
  });
  slave.close();
  using keys = new FdWriter(duplicate(master.fd));
  let out = "";
  for await (const chunk of readChunks(master.release())) {
    out += text(chunk);
    if (out === "17 91\r\n") await keys.write(bytes("typed\n"));
  }
  expect(out).toBe("17 91\r\ntyped\r\ngot typed\r\n");
  expect((await child.exited).code).toBe(5);
  keys.close();
  // Bun closes its copy on another thread, some milliseconds later.
  for (let tries = 0; terminals() > before && tries < 50; tries++) await Bun.sleep(10);
  expect(terminals()).toBeLessThanOrEqual(before);
});

test("raw mode passes bytes as they come and is undone", async () => {
  const { master, slave } = openPty();
  using _master = master;
  using _slave = slave;
  const undo = makeRaw(slave.fd);
  using writer = new FdWriter(duplicate(master.fd));
  await writer.write(new Uint8Array([3, 4, 10, 13]));
  const reader = readChunks(duplicate(slave.fd));
  expect((await reader.next()).value).toEqual(new Uint8Array([3, 4, 10, 13]));
  await reader.return();
  undo();
  disableNewlineTranslation(slave.fd);
  expect(() => makeRaw(0x7fff)).toThrow("bad file descriptor");
});

test("a shared terminal keeps its flags and is read all the same", async () => {
  const { master, slave } = openPty();
  using _master = master;
  using _slave = slave;
  const flags = statusFlags(slave.fd);
  using writer = new FdWriter(duplicate(master.fd));
  const reader = readChunks(slave.fd, { shared: true, own: false });
  const first = reader.next();
  await Bun.sleep(10);
  await writer.write(bytes("line\n"));
  expect(text((await first).value ?? new Uint8Array())).toBe("line\n");
  await reader.return();
  expect(statusFlags(slave.fd)).toBe(flags);
});

test("more than a megabyte a second each way, at once", async () => {
  const { master, slave } = openPty();
  makeRaw(slave.fd);
  const total = 3_000_000;
  await using child = spawnChild(["cat"], { stdin: { fd: slave.fd }, stdout: { fd: slave.fd }, newSession: true });
  slave.close();
  const writer = new FdWriter(duplicate(master.fd));
  const started = performance.now();
  const chunk = new Uint8Array(10_000).map((_, i) => i % 251);
  const writing = (async () => {
    for (let n = 0; n < total; n += chunk.length) await writer.write(chunk);
  })();
  let got = 0;
  let wrong = 0;
  for await (const part of readChunks(master.release())) {
    for (const [i, byte] of part.entries()) if (byte !== ((got + i) % 10_000) % 251) wrong++;
    got += part.byteLength;
    if (got >= total) break;
  }
  await writing;
  writer.close();
  const rate = (total / (performance.now() - started)) * 1_000;
  expect([got, wrong]).toEqual([total, 0]);
  expect(rate).toBeGreaterThan(1_000_000);
  child.kill(9);
  await child.exited;
});

test("a console socket receives a terminal, and says what it got otherwise", async () => {
  const dir = mkdtempSync("/tmp/os-pty-");
  try {
    using console = new ConsoleSocket(`${dir}/c.sock`);
    const { master, slave } = openPty();
    using _slave = slave;
    const coming = console.receive();
    const runtime = connectUnix(console.path);
    sendDescriptors(runtime.fd, bytes("/dev/ptmx"), [master.fd]);
    master.close();
    runtime.close();
    using received = await coming;
    setWindowSize(received.fd, { columns: 1, rows: 2 });
    expect(getWindowSize(slave.fd)).toEqual({ columns: 1, rows: 2 });
    const none = console.receive();
    connectUnix(console.path).close();
    await expect(none).rejects.toThrow("ended without a terminal");
    const odd = console.receive();
    const other = connectUnix(console.path);
    sendDescriptors(other.fd, bytes("x"), [other.fd]);
    other.close();
    await expect(odd).rejects.toThrow("no terminal");
    const abort = new AbortController();
    const late = console.receive(abort.signal);
    abort.abort(new Error("enough"));
    await expect(late).rejects.toThrow("enough");
    await Bun.sleep(30);
  } finally {
    expect(existsSync(`${dir}/c.sock`)).toBe(false);
    rmSync(dir, { recursive: true });
  }
});
