// Random faults at two hosts: what comes is right, or an error that names a host; nothing hangs, and no connection is left.
import { expect, test } from "bun:test";
import { fuzzing, fuzzLimitMs } from "@stevedore/base/test-fuzz";
import * as fc from "fast-check";
import { RegistryError } from "./failure.ts";
import { defaultHost } from "./hosts/defaults.ts";
import type { RegistryHost } from "./hosts/types.ts";
import { collect, descriptorOf, quickClient, someBytes } from "./testing/fixture.ts";
import { answer, type Fault, refuse, TestRegistry } from "./testing/test-registry.ts";

const BYTES = someBytes(1_200_000, 11);
const DESCRIPTOR = descriptorOf(BYTES);

/** Twelve faults of each host, each waited out, take some seconds on a busy machine. */
const HANGS_MS = 60_000;

const FAULTS = [
  "none",
  "none",
  "none",
  "cut",
  "reset",
  "stall",
  "busy",
  "broken",
  "whole",
  "shifted",
  "missing",
  "wrong",
] as const;
type FaultName = (typeof FAULTS)[number];

/** Does to a request for the blob what the name says. */
function doing(name: FaultName): Fault {
  return (request, response) => {
    const [, first = "0", last = ""] = /^bytes=(\d+)-(\d*)$/.exec(String(request.headers["range"] ?? "")) ?? [];
    const start = Number(first);
    const end = last === "" ? BYTES.byteLength : Math.min(BYTES.byteLength, Number(last) + 1);
    const begin = (count: number): boolean => {
      const partial = request.headers["range"] !== undefined;
      const range = { "Content-Range": `bytes ${start}-${end - 1}/${BYTES.byteLength}` };
      response.writeHead(partial ? 206 : 200, { "Content-Length": end - start, ...(partial ? range : {}) });
      return response.write(BYTES.subarray(start, Math.min(end, start + count)));
    };
    switch (name) {
      case "none":
        return false;
      case "cut":
        begin(100_000);
        setTimeout(() => response.destroy(), 5);
        return true;
      case "reset":
        response.destroy();
        return true;
      case "stall":
        begin(50_000);
        return true;
      case "busy":
        response.setHeader("Retry-After", "0");
        refuse(response, 429, "TOOMANYREQUESTS");
        return true;
      case "broken":
        answer(response, 503, "no service");
        return true;
      case "whole":
        response.setHeader("Content-Length", BYTES.byteLength);
        response.end(BYTES);
        return true;
      case "shifted":
        response.writeHead(206, { "Content-Range": `bytes ${start + 1}-${BYTES.byteLength - 1}/${BYTES.byteLength}` });
        response.end(BYTES.subarray(start + 1));
        return true;
      case "missing":
        refuse(response, 404, "BLOB_UNKNOWN");
        return true;
      case "wrong":
        response.setHeader("Content-Length", 7);
        response.end("nothing");
        return true;
      default:
        return name satisfies never;
    }
  };
}

const script = fc.array(fc.constantFrom(...FAULTS), { maxLength: 12 });
const mode = fc.constantFrom("stream" as const, "ordered" as const, "positioned" as const);

test(
  "C20 a pull through random faults gives the right bytes or a reason, and leaves nothing",
  async () => {
    const property = fc.asyncProperty(script, script, mode, fc.nat(BYTES.byteLength), async (one, two, how, offset) => {
      await using mirror = await TestRegistry.start();
      await using registry = await TestRegistry.start();
      for (const [server, faults] of [
        [mirror, one],
        [registry, two],
      ] as const) {
        server.putBlob("a", BYTES);
        let n = 0;
        server.faults.push((request, response) => doing(faults[n++] ?? "none")(request, response));
      }
      const hosts = [mirror, registry].map((server, i): RegistryHost => {
        return { ...defaultHost(server.host), scheme: "http", plainFallback: false, own: i === 1, tls: {} };
      });
      const client = quickClient({ hosts: { hosts: async () => hosts }, limits: { stallMs: 30, answerMs: 2000 } });
      try {
        const target = new Uint8Array(BYTES.byteLength);
        target.set(BYTES.subarray(0, offset));
        let sum = offset;
        if (how === "stream") {
          const { body } = await client.fetch("example.org/a:v1", DESCRIPTOR, { offset });
          const bytes = await collect(body);
          target.set(bytes, offset);
          sum += bytes.byteLength;
        } else {
          const options = { offset, parallel: 3, chunkSize: 300_000 };
          const fetched = await client.fetchRanges("example.org/a:v1", DESCRIPTOR, options);
          let at = offset;
          const placed = async function* () {
            for await (const bytes of fetched.ordered) {
              yield { offset: at, bytes };
              at += bytes.byteLength;
            }
          };
          for await (const chunk of how === "ordered" ? placed() : fetched.chunks) {
            target.set(chunk.bytes, chunk.offset);
            sum += chunk.bytes.byteLength;
          }
        }
        expect(sum).toBe(BYTES.byteLength);
        expect(Buffer.compare(target, BYTES)).toBe(0);
      } catch (error) {
        if (!(error instanceof RegistryError)) throw error;
        expect(error.failures.length).toBeGreaterThan(0);
        expect(error.message).toMatch(
          /^fetch sha256:[0-9a-f]+ of example\.org\/a: (2 hosts were tried: )?http:\/\/127\.0\.0\.1:/,
        );
      }
      expect(client.connections.busy).toBe(0);
      client.close();
    });
    // A run that hangs would otherwise only look like the end of the lane's time.
    await fc.assert(property, { ...fuzzing(2), timeout: HANGS_MS });
  },
  fuzzLimitMs(),
);

const UPLOAD_FAULTS = ["none", "none", "none", "reset", "early", "busy", "broken", "half", "lost"] as const;

/** Does to a request of an upload what the name says. */
function failing(name: (typeof UPLOAD_FAULTS)[number]): Fault {
  return (request, response) => {
    switch (name) {
      case "none":
        return false;
      case "reset":
        response.socket?.destroy();
        return true;
      case "early":
        refuse(response, 413, "SIZE_INVALID");
        return request.method !== "HEAD";
      case "busy":
        response.setHeader("Retry-After", "0");
        refuse(response, 429, "TOOMANYREQUESTS");
        return true;
      case "broken":
        answer(response, 502, "no service");
        return true;
      case "half":
        setTimeout(() => response.socket?.destroy(), 3);
        return true;
      case "lost":
        refuse(response, 404, "BLOB_UPLOAD_UNKNOWN");
        return true;
      default:
        return name satisfies never;
    }
  };
}

test(
  "C11 a push through random faults stores the right bytes or gives a reason, and leaves nothing",
  async () => {
    const faults = fc.array(fc.constantFrom(...UPLOAD_FAULTS), { maxLength: 12 });
    const property = fc.asyncProperty(faults, fc.integer({ min: 1, max: 400_000 }), async (names, part) => {
      await using registry = await TestRegistry.start();
      let n = 0;
      registry.faults.push((request, response) => failing(names[n++] ?? "none")(request, response));
      const client = quickClient({ limits: { answerMs: 2000, commitMs: 2000 } });
      const open = async function* (offset: number): AsyncGenerator<Uint8Array> {
        const step = Math.max(part, 4096);
        for (let at = offset; at < BYTES.byteLength; at += step) yield BYTES.subarray(at, at + step);
      };
      try {
        const pushed = await client.push(`${registry.host}/a:v1`, DESCRIPTOR, open);
        expect(pushed.state).toBe("uploaded");
        expect(Buffer.compare(registry.repository("a").blobs.get(DESCRIPTOR.digest) ?? Buffer.alloc(0), BYTES)).toBe(0);
      } catch (error) {
        if (!(error instanceof RegistryError)) throw error;
        expect(error.message).toMatch(/^push sha256:[0-9a-f]+ to 127\.0\.0\.1:\d+\/a: http:\/\/127\.0\.0\.1:/);
      }
      expect(client.connections.busy).toBe(0);
      client.close();
    });
    await fc.assert(property, { ...fuzzing(2), timeout: HANGS_MS });
  },
  fuzzLimitMs(),
);
