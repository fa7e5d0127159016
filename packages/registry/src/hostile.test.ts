// A broken or hostile registry: every case ends soon, in little memory, with an error that names the host and the reason.
import { describe, expect, test } from "bun:test";
import type { ServerResponse } from "node:http";
import { errorClassOf } from "@stevedore/base";
import { digestOf, MediaType } from "@stevedore/oci";
import type { FetchOptions } from "./fetch.ts";
import { defaultHost } from "./hosts/defaults.ts";
import type { HostsSource, RegistryHost } from "./hosts/types.ts";
import { collect, descriptorOf, failureFrom, putImage, quickClient, someBytes } from "./testing/fixture.ts";
import { answer, type Fault, refuse, type SeenRequest, TestRegistry } from "./testing/test-registry.ts";

const BYTES = someBytes(400_000, 3);
const DESCRIPTOR = descriptorOf(BYTES);
const isBlob = ({ path, method }: SeenRequest): boolean => path.includes("/blobs/") && method === "GET";

/** A registry with one blob and a fault for requests of it. */
async function withFault(fault: Fault, use: (registry: TestRegistry) => Promise<void>): Promise<void> {
  await using registry = await TestRegistry.start();
  registry.putBlob("a", BYTES);
  registry.faults.push((request, response) => (isBlob(request) ? fault(request, response) : false));
  await use(registry);
}

async function fetchAll(
  registry: TestRegistry,
  options: FetchOptions = {},
  client = quickClient(),
): Promise<Uint8Array> {
  const fetched = await client.fetch(`${registry.host}/a:v1`, DESCRIPTOR, {
    verify: options.offset === undefined,
    ...options,
  });
  return collect(fetched.body);
}

function startOf(request: SeenRequest): number {
  return Number(/^bytes=(\d+)-/.exec(String(request.headers["range"] ?? ""))?.[1] ?? 0);
}

/** Sends part of the blob as an honest answer would begin, then does something else. */
function sendPart(request: SeenRequest, response: ServerResponse, count: number): Promise<void> {
  const first = startOf(request);
  response.statusCode = first === 0 ? 200 : 206;
  if (first > 0) response.setHeader("Content-Range", `bytes ${first}-${BYTES.byteLength - 1}/${BYTES.byteLength}`);
  response.setHeader("Content-Length", BYTES.byteLength - first);
  return new Promise((resolve) => response.write(BYTES.subarray(first, first + count), () => resolve()));
}

function hostsOf(...registries: readonly TestRegistry[]): HostsSource {
  return {
    hosts: async () =>
      registries.map((one, i): RegistryHost => {
        return {
          ...defaultHost(one.host),
          scheme: "http",
          plainFallback: false,
          own: i === registries.length - 1,
          tls: {},
        };
      }),
  };
}

describe("a body", () => {
  test("that is cut off again and again is resumed where it was, never from zero", async () => {
    const starts: number[] = [];
    const fault: Fault = async (request, response) => {
      starts.push(startOf(request));
      await sendPart(request, response, 100_000);
      response.destroy();
      return true;
    };
    await withFault(fault, async (registry) => {
      expect(Buffer.compare(await fetchAll(registry), BYTES)).toBe(0);
    });
    expect(starts[0]).toBe(0);
    expect(starts.slice(1).every((start, i) => start > (starts[i] ?? 0))).toBe(true);
  });

  test("that stalls is resumed, and given up without progress", async () => {
    const impatient = quickClient({ limits: { stallMs: 300 } });
    let stalls = 0;
    const once: Fault = async (request, response) => {
      if (stalls++ > 0) return false;
      await sendPart(request, response, 150_000);
      return true;
    };
    await withFault(once, async (registry) => {
      expect(Buffer.compare(await fetchAll(registry, {}, impatient), BYTES)).toBe(0);
    });
    const always: Fault = async (request, response) => {
      await sendPart(request, response, 10);
      return true;
    };
    await withFault(always, async (registry) => {
      const error = await failureFrom(fetchAll(registry, {}, impatient));
      expect(error.message).toContain(
        `fetch ${DESCRIPTOR.digest} of ${registry.host}/a: http://${registry.host}: stalled: `,
      );
    });
  });

  test("with a wrong size, digest, range or coding is an error that says so", async () => {
    const cases: readonly (readonly [Fault, FetchOptions, string])[] = [
      [
        (_, response) => {
          response.end(BYTES.subarray(1));
          return true;
        },
        {},
        "its content has 399999 bytes, the descriptor says 400000",
      ],
      [
        (_, response) => {
          response.setHeader("Content-Length", 5);
          response.end("hello");
          return true;
        },
        {},
        "its content has 5 bytes, the descriptor says 400000",
      ],
      [
        (_, response) => {
          const wrong = Uint8Array.from(BYTES);
          wrong[7] = (wrong[7] ?? 0) ^ 1;
          response.setHeader("Content-Length", wrong.byteLength);
          response.end(wrong);
          return true;
        },
        {},
        "unexpected digest sha256:",
      ],
      [
        (_, response) => {
          response.writeHead(206, { "Content-Range": "bytes 6-399999/400000" }).end(BYTES.subarray(6));
          return true;
        },
        { offset: 5 },
        'answers with content range "bytes 6-399999/400000", wanted bytes 5 to 399999 of 400000',
      ],
      [
        (_, response) => {
          response.writeHead(206, { "Content-Range": "bytes 5-499999/500000" }).end(BYTES.subarray(5));
          return true;
        },
        { offset: 5 },
        'answers with content range "bytes 5-499999/500000"',
      ],
      [
        (_, response) => {
          response.writeHead(206).end(BYTES.subarray(5));
          return true;
        },
        { offset: 5 },
        'answers with content range ""',
      ],
      [
        (_, response) => {
          response.writeHead(200, { "Content-Encoding": "gzip" }).end(BYTES);
          return true;
        },
        {},
        "answers in content-encoding gzip",
      ],
      [
        (_, response) => {
          response.writeHead(204).end();
          return true;
        },
        {},
        "answers with status 204 to a GET",
      ],
    ];
    for (const [fault, options, message] of cases) {
      await withFault(fault, async (registry) => {
        const error = await failureFrom(fetchAll(registry, options));
        expect(error.message).toContain(message);
      });
    }
  });

  test("without end is left at the descriptor's size", async () => {
    let sent = 0;
    const endless: Fault = (_, response) => {
      const more = (): void => {
        let room = true;
        while (room && !response.destroyed) {
          room = response.write(BYTES);
          sent += BYTES.byteLength;
        }
        if (!response.destroyed) response.once("drain", more);
      };
      more();
      return true;
    };
    await withFault(endless, async (registry) => {
      const error = await failureFrom(fetchAll(registry));
      expect(error.message).toContain("its content has more than 400000 bytes");
    });
    expect(sent).toBeLessThan(64 << 20);
  });

  test("that breaks at a mirror goes on at the registry", async () => {
    await using mirror = await TestRegistry.start();
    await using registry = await TestRegistry.start();
    mirror.putBlob("a", BYTES);
    registry.putBlob("a", BYTES);
    mirror.faults.push(async (request, response) => {
      await sendPart(request, response, 120_000);
      response.destroy();
      return true;
    });
    const client = quickClient({ hosts: hostsOf(mirror, registry) });
    const fetched = await client.fetch("example.org/a:v1", DESCRIPTOR, { verify: true });
    expect(Buffer.compare(await collect(fetched.body), BYTES)).toBe(0);
    expect(mirror.seen).toHaveLength(1);
    expect(registry.seen).toHaveLength(1);
    expect(startOf(registry.seen[0] ?? { method: "", path: "", headers: {}, form: "" })).toBeGreaterThan(0);
  });

  test("in ranges survives breaks, stalls and a server that forgets ranges half way", async () => {
    let n = 0;
    const wild: Fault = async (request, response) => {
      n += 1;
      if (n % 4 === 1) {
        // The whole blob, whatever range was asked for.
        response.setHeader("Content-Length", BYTES.byteLength);
        response.end(BYTES);
        return true;
      }
      if (n % 4 === 3) {
        await sendPart(request, response, 20_000);
        response.destroy();
        return true;
      }
      return false;
    };
    for (const first of [0, 1, 2, 3]) {
      n = first;
      await withFault(wild, async (registry) => {
        const client = quickClient({ limits: { attempts: 10 } });
        const fetched = await client.fetchRanges(`${registry.host}/a:v1`, DESCRIPTOR, { parallel: 3, chunkSize: 1 });
        const target = new Uint8Array(BYTES.byteLength);
        let sum = 0;
        for await (const { offset, bytes } of fetched.chunks) {
          target.set(bytes, offset);
          sum += bytes.byteLength;
        }
        expect(sum).toBe(BYTES.byteLength);
        expect(Buffer.compare(target, BYTES)).toBe(0);
      });
    }
  });

  test("in ranges of which a late one fails is an error, in order as well", async () => {
    // Found by the random lane: readers of earlier ranges waited for one who was gone.
    const late: Fault = (request, response) => {
      if (startOf(request) < 300_000) return false;
      response.setHeader("Content-Length", 7);
      response.end("nothing");
      return true;
    };
    for (const how of ["ordered", "chunks"] as const) {
      await withFault(late, async (registry) => {
        const client = quickClient();
        const fetched = await client.fetchRanges(`${registry.host}/a:v1`, DESCRIPTOR, {
          parallel: 3,
          chunkSize: 300_000,
        });
        const read = async (): Promise<void> => {
          for await (const _ of fetched[how]);
        };
        expect((await failureFrom(read())).message).toContain("its content has 7 bytes, the descriptor says 400000");
        expect(client.connections.busy).toBe(0);
      });
    }
  });

  test("in ranges ends with its signal, read or unread", async () => {
    await withFault(
      async (request, response) => {
        await sendPart(request, response, 10_000);
        return true;
      },
      async (registry) => {
        const client = quickClient();
        for (const how of ["ordered", "chunks"] as const) {
          const stop = new AbortController();
          const fetched = await client.fetchRanges(`${registry.host}/a:v1`, DESCRIPTOR, {
            signal: stop.signal,
            chunkSize: 300_000,
          });
          const read = async (): Promise<void> => {
            for await (const _ of fetched[how]) setTimeout(() => stop.abort(new Error("enough")), 20);
          };
          expect((await failureFrom(read())).message).toBe("enough");
          expect(client.connections.busy).toBe(0);
        }
      },
    );
  });

  test("whose mirror holds something else is taken from the next host", async () => {
    await using mirror = await TestRegistry.start();
    await using registry = await TestRegistry.start();
    const { manifest, digest } = putImage(registry, "a", "v1");
    mirror.faults.push((_, response) => {
      answer(response, 200, "x".repeat(manifest.byteLength));
      return true;
    });
    const client = quickClient({ hosts: hostsOf(mirror, registry) });
    const descriptor = { mediaType: MediaType.ociManifest, digest, size: manifest.byteLength };
    expect(Buffer.compare(await client.fetchDocument("example.org/a:v1", descriptor), manifest)).toBe(0);
    const only = quickClient({ hosts: hostsOf(mirror) });
    const error = await failureFrom(only.fetchDocument("example.org/a:v1", descriptor));
    expect(error.message).toContain(`its content has digest ${digestOf("x".repeat(manifest.byteLength))}`);
    expect(errorClassOf(error)).toBe("data-loss");
    const excluded = await client.fetch("example.org/a:v1", descriptor, {
      exclude: new Set([mirror.url]),
      verify: true,
    });
    expect(Buffer.compare(await collect(excluded.body), manifest)).toBe(0);
  });
});

describe("a list", () => {
  test("of very many entries comes, within the limits", async () => {
    await using registry = await TestRegistry.start();
    const tags = Array.from({ length: 300_000 }, (_, i) => `t${i}`);
    registry.faults.push((_, response) => {
      answer(response, 200, JSON.stringify({ tags }));
      return true;
    });
    expect(await quickClient().tags(`${registry.host}/a:v1`)).toHaveLength(300_000);
  });
});

describe("an answer", () => {
  test("of 429 or 5xx is waited out, as long as it asks", async () => {
    let refused = 0;
    const busy: Fault = (_, response) => {
      if (refused++ > 1) return false;
      response.setHeader("Retry-After", refused === 1 ? "0" : new Date(Date.now() + 1000).toUTCString());
      refuse(response, refused === 1 ? 429 : 503, "TOOMANYREQUESTS");
      return true;
    };
    await withFault(busy, async (registry) => {
      expect((await fetchAll(registry)).byteLength).toBe(BYTES.byteLength);
    });
    const long: Fault = (_, response) => {
      response.setHeader("Retry-After", "3600");
      refuse(response, 429, "TOOMANYREQUESTS", "you have reached your pull rate limit");
      return true;
    };
    await withFault(long, async (registry) => {
      const error = await failureFrom(fetchAll(registry));
      expect(error.message).toContain(
        "429 Too Many Requests: TOOMANYREQUESTS: you have reached your pull rate limit, asks to wait 3600 s",
      );
      expect(errorClassOf(error)).toBe("resource-exhausted");
      expect(registry.log.filter((line) => line.includes("/blobs/"))).toHaveLength(1);
    });
    const never: Fault = (_, response) => {
      refuse(response, 502, "UNAVAILABLE");
      return true;
    };
    await withFault(never, async (registry) => {
      expect(errorClassOf(await failureFrom(fetchAll(registry)))).toBe("unavailable");
      expect(registry.log.filter((line) => line.includes("/blobs/"))).toHaveLength(3);
    });
  });

  test("that redirects in a circle, nowhere, or out of TLS is refused", async () => {
    const cases: readonly (readonly [string, string])[] = [
      ["/v2/a/blobs/round", "more than 10 redirects"],
      ["ftp://elsewhere/", "redirected to no URL of http"],
      ["http://", "redirected to no URL of http"],
    ];
    for (const [location, message] of cases) {
      const fault: Fault = (_, response) => {
        response.setHeader("Location", location);
        answer(response, 302, "");
        return true;
      };
      await withFault(fault, async (registry) => {
        expect((await failureFrom(fetchAll(registry))).message).toContain(message);
      });
    }
  });

  test("with an endless or secret-bearing error body is read to a limit and shown in short", async () => {
    const endless: Fault = (_, response) => {
      response.statusCode = 400;
      const more = (): void => {
        while (!response.destroyed && response.write("<html>".repeat(10_000)));
        if (!response.destroyed) response.once("drain", more);
      };
      more();
      return true;
    };
    await withFault(endless, async (registry) => {
      const error = await failureFrom(fetchAll(registry));
      expect(error.message).toContain("400 Bad Request: an HTML page");
      expect(error.message.length).toBeLessThan(600);
    });
    const signed: Fault = (_, response) => {
      answer(response, 403, "denied: https://user:hunter22@store/x?X-Amz-Signature=hunter23&n=1\u0007");
      return true;
    };
    await withFault(signed, async (registry) => {
      const error = await failureFrom(fetchAll(registry));
      expect(error.message).toContain("403 Forbidden: denied: https://store/x?X-Amz-Signature=xxxxx");
      expect(error.message).not.toContain("hunter2");
      expect(errorClassOf(error)).toBe("permission-denied");
    });
  });

  test("with a manifest beyond the limit is refused, told or untold", async () => {
    for (const told of [true, false]) {
      await using registry = await TestRegistry.start();
      registry.faults.push((request, response) => {
        response.setHeader("Content-Type", MediaType.ociManifest);
        if (told) {
          response.setHeader("Docker-Content-Digest", digestOf("x"));
          response.setHeader("Content-Length", 1 << 30);
          response.end();
          return true;
        }
        if (request.method === "HEAD") {
          response.end();
          return true;
        }
        const more = (): void => {
          while (!response.destroyed && response.write(BYTES));
          if (!response.destroyed) response.once("drain", more);
        };
        more();
        return true;
      });
      const error = await failureFrom(quickClient().resolve(`${registry.host}/a:v1`));
      expect(error.message).toContain(
        told ? "rejecting a manifest of 1073741824 bytes" : "exceeds the limit of 4393216 bytes",
      );
    }
  });

  test("with pages that repeat, never end, or lie elsewhere ends", async () => {
    await using registry = await TestRegistry.start();
    let link = "";
    let n = 0;
    registry.faults.push((_, response) => {
      response.setHeader("Link", `<${link.replace("N", String((n += 1)))}>; rel="next"`);
      answer(response, 200, '{"tags":["t"]}');
      return true;
    });
    const client = quickClient({ limits: { listPages: 20 } });
    const list = async () => client.tags(`${registry.host}/a:v1`);
    link = "/v2/a/tags/list?same";
    expect((await failureFrom(list())).message).toContain("a list whose pages repeat");
    link = "/v2/a/tags/list?last=N";
    expect((await failureFrom(list())).message).toContain("a list of more than 20 pages");
    const few = quickClient({ limits: { listEntries: 10 } });
    expect((await failureFrom(few.tags(`${registry.host}/a:v1`))).message).toContain("a list of more than 10 entries");
    link = "https://elsewhere.example/v2/a/tags/list";
    expect(await list()).toEqual(["t"]);
  });

  test("that is an old manifest is refused in the peer's words", async () => {
    await using registry = await TestRegistry.start();
    registry.putManifest("a", Buffer.from("{}"), { tag: "v1", mediaType: "text/plain" });
    const error = await failureFrom(quickClient().resolve(`${registry.host}/a:v1`));
    expect(error.message).toContain("is no longer supported since containerd v2.0");
    expect(errorClassOf(error)).toBe("not-implemented");
  });
});

test("an upload that is led elsewhere carries no credentials there, and one that leads nowhere ends", async () => {
  await using thief = await TestRegistry.start();
  await using registry = await TestRegistry.start({ auth: { kind: "basic", users: { alice: "correct-horse" } } });
  thief.faults.push((_, response) => {
    response.setHeader("Docker-Content-Digest", DESCRIPTOR.digest);
    answer(response, 201, "");
    return true;
  });
  let location = `${thief.url}/upload?sig=1`;
  registry.faults.push((request, response) => {
    if (request.method !== "POST" || request.headers["authorization"] === undefined) return false;
    response.setHeader("Location", location);
    answer(response, 202, "");
    return true;
  });
  const client = quickClient({
    credentials: {
      name: "a test",
      find: async () => ({ kind: "basic", username: "alice", password: "correct-horse", from: "a test" }),
    },
  });
  const open = async function* (): AsyncGenerator<Uint8Array> {
    yield BYTES;
  };
  expect((await client.push(`${registry.host}/a:v1`, DESCRIPTOR, open)).state).toBe("uploaded");
  expect(thief.log).toEqual([`PUT /upload?sig=1&digest=${encodeURIComponent(DESCRIPTOR.digest)}`]);
  expect(thief.seen[0]?.headers["authorization"]).toBeUndefined();
  location = "";
  const error = await failureFrom(client.push(`${registry.host}/b:v1`, DESCRIPTOR, open));
  expect(error.message).toContain("began an upload without saying where it goes on");
});
