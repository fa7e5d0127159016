import { expect, test } from "bun:test";
import { backgroundContext, concatBytes } from "@stevedore/base";
import { someBytes } from "@stevedore/registry/testing/fixture";
import { TestRegistry } from "@stevedore/registry/testing/test-registry";
import { createRegistries, type RangeRule } from "./registry-session.ts";

const MIB = 1 << 20;

/** Fetches a blob of 4 MiB and tells the ranges that were asked for. */
async function fetched(rule: Partial<RangeRule>, delayMs: number): Promise<readonly string[]> {
  await using registry = await TestRegistry.start();
  const bytes = someBytes(4 * MIB);
  const digest = registry.putBlob("team/large", bytes);
  // Without a range the blob comes slowly.
  registry.faults.push(async ({ headers, path }, response) => {
    if (delayMs === 0 || headers["range"] !== undefined || !path.includes(digest)) return false;
    response.writeHead(200, { "Content-Length": bytes.byteLength });
    for (let at = 0; at < bytes.byteLength && response.writable; at += 65_536) {
      response.write(bytes.subarray(at, at + 65_536));
      await Bun.sleep(delayMs);
    }
    response.end();
    return true;
  });
  using registries = createRegistries({
    userAgent: "test",
    hostDirs: [],
    environment: {},
    ranges: { from: 2 * MIB, size: MIB, slow: 100_000_000, ...rule },
  });
  const context = backgroundContext();
  await using session = await registries.open(context, {
    headers: {},
    hostDir: "",
    defaultScheme: "http",
  });
  const descriptor = { mediaType: "application/vnd.oci.image.layer.v1.tar", digest, size: bytes.byteLength };
  const parts: Uint8Array[] = [];
  const reference = `${registry.host}/team/large:1`;
  for await (const part of session.fetch(reference, descriptor, { offset: 0, signal: context.signal })) {
    parts.push(part.slice());
  }
  expect(Buffer.from(concatBytes(parts)).equals(Buffer.from(bytes))).toBe(true);
  return registry.seen
    .filter(({ path }) => path.includes(digest))
    .map(({ headers }) => String(headers["range"] ?? "whole"));
}

test("a blob comes over one connection, and what is left of it over several where that one is slow", async () => {
  expect(await fetched({ judgedAfterMs: 60_000 }, 0)).toEqual(["whole"]);
  const [first, ...ranges] = await fetched({ judgedAfterMs: 20 }, 5);
  expect(first).toBe("whole");
  expect(ranges.length).toBeGreaterThanOrEqual(2);
  expect(ranges.every((range) => /^bytes=[1-9]\d*-\d+$/.test(range))).toBe(true);
  // Where little is left, the first connection is kept.
  expect(await fetched({ judgedAfterMs: 20, from: 4 * MIB }, 1)).toEqual(["whole"]);
  const always = await fetched({ judgedAfterMs: 0 }, 0);
  expect(always).toHaveLength(4);
  expect(always.every((range) => range.startsWith("bytes="))).toBe(true);
});
