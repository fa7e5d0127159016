import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { closeFd, OwnedFd } from "./fd.ts";
import {
  FdWriter,
  makeFifo,
  openFifoBoth,
  openFifoReader,
  openFifoReaderNow,
  openFifoWriter,
  pump,
  readChunks,
} from "./fifo.ts";
import { spawnChild } from "./spawn.ts";

let dir = "";
beforeEach(() => {
  dir = mkdtempSync("/tmp/os-fifo-");
});
afterEach(() => rmSync(dir, { recursive: true }));

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

async function collect(fd: number): Promise<string> {
  let out = "";
  for await (const chunk of readChunks(fd)) out += new TextDecoder().decode(chunk);
  return out;
}

/** How many of the fifos are open still. Bun closes its copies on another thread, some milliseconds after their stream. */
async function ourPipes(): Promise<number> {
  let count = countPipes();
  for (let tries = 0; count > 0 && tries < 50; tries++) {
    await Bun.sleep(10);
    count = countPipes();
  }
  return count;
}

function countPipes(): number {
  let count = 0;
  for (const fd of readdirSync("/proc/self/fd")) {
    try {
      if (readlinkSync(`/proc/self/fd/${fd}`).startsWith(dir)) count++;
    } catch {}
  }
  return count;
}

test("makeFifo() takes what is there if it is a fifo", () => {
  makeFifo(`${dir}/f`);
  makeFifo(`${dir}/f`);
  writeFileSync(`${dir}/file`, "");
  expect(() => makeFifo(`${dir}/file`)).toThrow("no fifo");
  expect(() => makeFifo(`${dir}/no/f`)).toThrow("no such file");
});

test("each side waits for the other, the reader sees the end", async () => {
  makeFifo(`${dir}/f`);
  const reader = openFifoReader(`${dir}/f`);
  const writer = await openFifoWriter(`${dir}/f`);
  // A writer that has said nothing yet leaves the reader waiting.
  expect(await Promise.race([reader, Bun.sleep(20)])).toBeUndefined();
  await writer.write(bytes("hello"));
  const fd = await reader;
  const all = collect(fd.release());
  await writer.write(bytes(" world"));
  writer.close();
  expect(await all).toBe("hello world");
  expect(await ourPipes()).toBe(0);
});

test("a writer that comes and goes without a word ends the reader", async () => {
  makeFifo(`${dir}/f`);
  const reader = openFifoReader(`${dir}/f`);
  (await openFifoWriter(`${dir}/f`)).close();
  expect(await collect((await reader).release())).toBe("");
});

test("peers blocked in a plain open are served, as Go clients are", async () => {
  makeFifo(`${dir}/out`);
  makeFifo(`${dir}/in`);
  await using child = spawnChild(["sh", "-c", `cat <${dir}/out >${dir}/in`]);
  const writer = await openFifoWriter(`${dir}/out`);
  const reader = openFifoReader(`${dir}/in`);
  await writer.write(bytes("through"));
  writer.close();
  expect(await collect((await reader).release())).toBe("through");
  expect((await child.exited).code).toBe(0);
});

test("waiting ends with the signal", async () => {
  makeFifo(`${dir}/f`);
  const abort = new AbortController();
  setTimeout(() => abort.abort(new Error("enough")), 20);
  const both = await Promise.allSettled([
    openFifoReader(`${dir}/missing`, { signal: abort.signal }),
    openFifoWriter(`${dir}/f`, { signal: abort.signal }),
  ]);
  const reasons = both.map((result) => (result.status === "rejected" ? String(result.reason) : ""));
  expect(reasons[0]).toContain("no such file");
  expect(reasons[1]).toBe("Error: enough");
  const later = new AbortController();
  setTimeout(() => later.abort(new Error("enough")), 20);
  await expect(openFifoReader(`${dir}/f`, { signal: later.signal })).rejects.toThrow("enough");
  await Bun.sleep(50);
  expect(await ourPipes()).toBe(0);
});

test("keepReader spares the writer EPIPE, its absence does not", async () => {
  makeFifo(`${dir}/f`);
  const first = openFifoReaderNow(`${dir}/f`);
  using kept = await openFifoWriter(`${dir}/f`, { keepReader: true });
  first.close();
  await kept.write(bytes("kept"));
  const second = openFifoReaderNow(`${dir}/f`);
  kept.close();
  expect(await collect(second.release())).toBe("kept");
  makeFifo(`${dir}/g`);
  const third = openFifoReaderNow(`${dir}/g`);
  using plain = await openFifoWriter(`${dir}/g`);
  third.close();
  await expect(plain.write(bytes("lost"))).rejects.toThrow("broken pipe");
});

test("a full fifo blocks the writer, close fails what is queued", async () => {
  makeFifo(`${dir}/f`);
  using held = openFifoBoth(`${dir}/f`);
  using writer = new FdWriter(openFifoBoth(`${dir}/f`).release());
  let done = 0;
  const writes = [1, 2, 3].map(() => writer.write(new Uint8Array(60_000)).then(() => done++));
  await Bun.sleep(20);
  expect(done).toBe(1);
  expect(writer.writeSome(bytes("x"))).toBe(0);
  const settled = Promise.allSettled(writes);
  writer.close();
  expect((await settled).map((result) => result.status)).toEqual(["fulfilled", "rejected", "rejected"]);
  expect(held.fd).toBeGreaterThan(2);
});

test("fifty fifos at once, 4 MB each, both ways through a pump", async () => {
  const total = 4_000_000;
  const chunk = new Uint8Array(50_000).fill(7);
  const counts = await Promise.all(
    Array.from({ length: 50 }, async (_, i) => {
      makeFifo(`${dir}/a${i}`);
      makeFifo(`${dir}/b${i}`);
      const middle = openFifoReaderNow(`${dir}/a${i}`);
      const end = openFifoReaderNow(`${dir}/b${i}`);
      const [source, sink] = await Promise.all([openFifoWriter(`${dir}/a${i}`), openFifoWriter(`${dir}/b${i}`)]);
      const producing = (async () => {
        for (let n = 0; n < total; n += chunk.length) await source.write(chunk);
        source.close();
      })();
      let seen = 0;
      const pumping = pump(middle.release(), sink, { onBytes: (n) => (seen += n) }).finally(() => sink.close());
      let got = 0;
      for await (const part of readChunks(end.release())) got += part.byteLength;
      await producing;
      expect(await pumping).toBe(total);
      expect(seen).toBe(total);
      return got;
    }),
  );
  expect(counts.every((count) => count === total)).toBe(true);
  expect(await ourPipes()).toBe(0);
}, 60_000);

test("two hundred blocked neighbours cost the one that moves next to nothing", async () => {
  const blocked = Array.from({ length: 200 }, (_, i) => {
    makeFifo(`${dir}/full${i}`);
    return new FdWriter(openFifoBoth(`${dir}/full${i}`).release());
  });
  const never = blocked.map((writer) => writer.write(new Uint8Array(100_000)).catch(() => undefined));
  makeFifo(`${dir}/live`);
  const reader = openFifoReaderNow(`${dir}/live`);
  const writer = await openFifoWriter(`${dir}/live`);
  const started = performance.now();
  const writing = (async () => {
    for (let i = 0; i < 500; i++) await writer.write(new Uint8Array(100_000));
    writer.close();
  })();
  let got = 0;
  for await (const part of readChunks(reader.release())) got += part.byteLength;
  await writing;
  expect(got).toBe(50_000_000);
  expect(performance.now() - started).toBeLessThan(3_000);
  for (const each of blocked) each.close();
  await Promise.all(never);
});

test("a silent neighbour and one that never reads delay nobody", async () => {
  makeFifo(`${dir}/full`);
  makeFifo(`${dir}/live`);
  using blocked = new FdWriter(openFifoBoth(`${dir}/full`).release());
  const never = blocked.write(new Uint8Array(1_000_000)).catch(() => "closed");
  const reader = openFifoReaderNow(`${dir}/live`);
  const writer = await openFifoWriter(`${dir}/live`);
  const iterator = readChunks(reader.release());
  const times: number[] = [];
  for (let i = 0; i < 100; i++) {
    const started = performance.now();
    await writer.write(bytes(`line ${i}\n`));
    const { value } = await iterator.next();
    expect(new TextDecoder().decode(value ?? new Uint8Array())).toBe(`line ${i}\n`);
    times.push(performance.now() - started);
  }
  // One may meet a busy machine; a neighbour's full FIFO would delay all.
  expect(times.toSorted((a, b) => a - b)[50]).toBeLessThan(100);
  writer.close();
  await iterator.return();
  blocked.close();
  expect(await never).toBe("closed");
  closeFd(new OwnedFd(openFifoBoth(`${dir}/live`).release()).release());
});
