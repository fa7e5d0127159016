import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { connect, createServer, type Server, type Socket } from "node:net";
import type { RegistryHost } from "../hosts/types.ts";
import { DEFAULT_LIMITS } from "../limits.ts";
import { makeCertificates, type TestCertificates } from "../testing/certificates.ts";
import { collect, descriptorOf, failureFrom, putImage, quickClient, SOON, someBytes } from "../testing/fixture.ts";
import { TestRegistry } from "../testing/test-registry.ts";
import { HttpCarrier, type HttpResponse, readAll } from "./carrier.ts";
import { TransportError } from "./failure.ts";
import { contentLength, framingOf, parseHead } from "./head.ts";
import { proxyFor } from "./proxy.ts";
import type { TlsSettings } from "./tls.ts";

const LIMITS = { ...DEFAULT_LIMITS, ...SOON };
/** For what is to stall. */
const IMPATIENT = { ...LIMITS, stallMs: 300 };
const SIGNAL = new AbortController().signal;

/** A server that does what `serve` says with each connection. */
class RawServer {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  connections = 0;

  constructor(serve: (socket: Socket, count: number) => void) {
    this.#server = createServer((socket) => {
      this.connections += 1;
      this.#sockets.add(socket);
      socket.on("error", () => undefined);
      serve(socket, this.connections);
    });
  }

  async start(): Promise<this> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return this;
  }

  get url(): URL {
    const address = this.#server.address();
    return new URL(`http://127.0.0.1:${typeof address === "object" && address !== null ? address.port : 0}/`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }
}

/** A server that answers each request on a connection with this text. */
async function answering(...texts: readonly string[]): Promise<RawServer> {
  return new RawServer((socket) => {
    let n = 0;
    socket.on("data", () => {
      socket.write(texts[Math.min(n++, texts.length - 1)] ?? "");
    });
  }).start();
}

async function get(carrier: HttpCarrier, url: URL): Promise<HttpResponse> {
  return carrier.send({ method: "GET", url, headers: [], signal: SIGNAL });
}

const text = async (response: HttpResponse): Promise<string> =>
  Buffer.from(await readAll(response, 1 << 20)).toString();

describe("a connection", () => {
  test("reads bodies by length, in chunks, and to the end of the connection", async () => {
    const bodies: readonly (readonly [string, string])[] = [
      ["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello"],
      [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: 1\r\n\r\n",
        "hello",
      ],
      ["HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "hi"],
      ["HTTP/1.1 204 No Content\r\n\r\n", ""],
    ];
    for (const [answer, expected] of bodies) {
      await using server = await answering(answer);
      const carrier = new HttpCarrier(LIMITS, {});
      for (let i = 0; i < 3; i++) expect(await text(await get(carrier, server.url))).toBe(expected);
      expect(server.connections).toBe(1);
      carrier.close();
    }
    await using closing = await new RawServer((socket) => {
      socket.on("data", () => socket.end("HTTP/1.0 200 OK\r\n\r\nuntil the end"));
    }).start();
    expect(await text(await get(new HttpCarrier(LIMITS, {}), closing.url))).toBe("until the end");
  });

  test("refuses what is no HTTP, too large, contradictory or cut off", async () => {
    const answers: readonly (readonly [string, string])[] = [
      ["SSH-2.0-OpenSSH_9\r\n\r\n", "does not answer in HTTP/1"],
      [`HTTP/1.1 200 OK\r\nX: ${"y".repeat(100_000)}`, "exceeds 65536 bytes"],
      [`HTTP/1.1 200 OK\r\n${"X: y\r\n".repeat(300)}\r\n`, "more than 256 header lines"],
      ["HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "malformed content-length"],
      ["HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "malformed content-length"],
      ["HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "transfer-encoding"],
      ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "malformed chunk size"],
      [`HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${"1".repeat(9000)}`, "overlong chunk line"],
      ["HTTP/1.1 200 OK\r\nbad header\r\n\r\n", "malformed header line"],
      ["HTTP/1.1 100 Continue\r\n\r\n".repeat(20), "informational answers"],
    ];
    for (const [answer, message] of answers) {
      await using server = await answering(answer);
      const carrier = new HttpCarrier(LIMITS, {});
      const error = await failureFrom(get(carrier, server.url).then(text));
      expect(error).toBeInstanceOf(TransportError);
      expect(error.message).toContain(message);
      expect(carrier.connections).toEqual({ busy: 0, idle: 0 });
    }
    await using cut = await new RawServer((socket) => {
      socket.on("data", () => socket.end("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"));
    }).start();
    const error = await failureFrom(get(new HttpCarrier(LIMITS, {}), cut.url).then(text));
    expect(error.message).toBe("the connection was closed after 4 of 10 bytes");
  });

  test("that was closed while idle is replaced, without the caller's knowledge", async () => {
    await using server = await new RawServer((socket) => {
      socket.on("data", () => {
        socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        setTimeout(() => socket.destroy(), 20);
      });
    }).start();
    const carrier = new HttpCarrier(LIMITS, {});
    for (let i = 0; i < 3; i++) {
      expect(await text(await get(carrier, server.url))).toBe("ok");
      await new Promise((resolve) => setTimeout(resolve, i === 0 ? 0 : 60));
    }
    // One that dies only when it is used again is replaced too.
    await using rude = await new RawServer((socket) => {
      let n = 0;
      socket.on("data", () => {
        if (n++ > 0) socket.destroy();
        else socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
      });
    }).start();
    for (let i = 0; i < 3; i++) expect(await text(await get(carrier, rude.url))).toBe("ok");
    expect(rude.connections).toBe(3);
  });

  test("waits for a slow reader with little memory", async () => {
    let written = 0;
    await using server = await new RawServer((socket) => {
      socket.on("data", () => {
        socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${64 << 20}\r\n\r\n`);
        const block = new Uint8Array(256 << 10);
        const more = (): void => {
          while (written < 64 << 20) {
            written += block.byteLength;
            if (!socket.write(block)) {
              socket.once("drain", more);
              return;
            }
          }
        };
        more();
      });
    }).start();
    const response = await get(new HttpCarrier({ ...LIMITS, stallMs: 1000 }, {}), server.url);
    const body = response.body[Symbol.asyncIterator]();
    const first = await body.next();
    let read = first.done === true ? 0 : first.value.byteLength;
    // Longer than the stall rule allows: a slow reader is not a slow server.
    await new Promise((resolve) => setTimeout(resolve, 1200));
    expect(written).toBeLessThan(32 << 20);
    for (let next = await body.next(); next.done !== true; next = await body.next()) read += next.value.byteLength;
    expect(read).toBe(64 << 20);
  });

  test("that brings too little for too long is a stall", async () => {
    await using server = await new RawServer((socket) => {
      socket.on("data", () => {
        socket.write("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
        const timer = setInterval(() => socket.write("x"), 10);
        socket.on("close", () => clearInterval(timer));
      });
    }).start();
    const error = await failureFrom(get(new HttpCarrier(IMPATIENT, {}), server.url).then(text));
    expect(error.message).toMatch(/^stalled: \d+ bytes in 0.3 s of waiting, want 1024$/);
  });

  test("that gives no answer ends after its time", async () => {
    await using server = await new RawServer(() => undefined).start();
    const error = await failureFrom(get(new HttpCarrier({ ...LIMITS, answerMs: 100 }, {}), server.url));
    expect(error.message).toBe("no answer within 0.1 s");
  });

  test("sends a body as the server takes it, and takes an early refusal", async () => {
    await using server = await new RawServer((socket) => {
      socket.once("data", () => {
        socket.pause();
        socket.write("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n");
      });
    }).start();
    let given = 0;
    const body = {
      length: 1 << 30,
      open: async function* (): AsyncGenerator<Uint8Array> {
        for (; given < 1 << 30; given += 1 << 20) yield new Uint8Array(1 << 20);
      },
    };
    const carrier = new HttpCarrier(LIMITS, {});
    const response = await carrier.send({ method: "PUT", url: server.url, headers: [], body, signal: SIGNAL });
    expect(response.status).toBe(413);
    expect(given).toBeLessThan(64 << 20);
    expect(carrier.connections.idle).toBe(0);
  });

  test("waits for one of the allowed connections", async () => {
    let open = 0;
    let most = 0;
    await using server = await new RawServer((socket) => {
      most = Math.max(most, (open += 1));
      socket.on("close", () => (open -= 1));
      socket.on("data", () => setTimeout(() => socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), 5));
    }).start();
    const carrier = new HttpCarrier({ ...LIMITS, connections: 3 }, {});
    const all = await Promise.all(Array.from({ length: 20 }, async () => text(await get(carrier, server.url))));
    expect(all.every((one) => one === "ok")).toBe(true);
    expect(most).toBe(3);
    carrier.close();
  });

  test("headers with line ends are not sent", async () => {
    const carrier = new HttpCarrier(LIMITS, {});
    const request = {
      method: "GET",
      url: new URL("http://127.0.0.1:1/"),
      headers: [["X", "a\r\nY: b"]] as const,
      signal: SIGNAL,
    };
    expect((await failureFrom(carrier.send(request))).message).toBe("header X has characters that cannot be sent");
  });
});

describe("TLS", () => {
  let certificates: TestCertificates;
  beforeAll(async () => {
    certificates = await makeCertificates();
  });

  const hostOf = (registry: TestRegistry, tls: TlsSettings, host = registry.host): RegistryHost => ({
    scheme: "https",
    host,
    path: "/v2",
    capabilities: new Set(["pull", "resolve"]),
    plainFallback: false,
    own: true,
    tls,
    headers: [],
    origins: {},
  });
  const resolve = async (host: RegistryHost) =>
    quickClient({ hosts: { hosts: async () => [host] } }).resolve("example.org/a:v1");

  test("is verified by the authorities that are named, or not at all when told so", async () => {
    await using registry = await TestRegistry.start({ tls: certificates.server });
    const { digest } = putImage(registry, "a", "v1");
    const { ca } = certificates;
    expect((await resolve(hostOf(registry, { ca: [ca] }))).descriptor.digest).toBe(digest);
    expect((await resolve(hostOf(registry, { skipVerify: true }))).descriptor.digest).toBe(digest);
    const port = registry.host.split(":")[1] ?? "";
    expect((await resolve(hostOf(registry, { ca: [ca] }, `localhost:${port}`))).descriptor.digest).toBe(digest);
    const unknown = await failureFrom(resolve(hostOf(registry, {})));
    expect(unknown.message).toContain("tls: certificate signed by unknown authority");
    expect(unknown.message).toContain("name its CA by --tlscacert or `ca` in a hosts.toml");
  });

  test("is verified by name", async () => {
    const other = await makeCertificates("DNS:other.example");
    await using registry = await TestRegistry.start({ tls: other.server });
    const error = await failureFrom(resolve(hostOf(registry, { ca: [other.ca] })));
    expect(error.message).toContain("tls: certificate is not for this host");
  });

  test("shows client certificates to whom they are for", async () => {
    await using registry = await TestRegistry.start({ tls: { ...certificates.server, ca: certificates.ca } });
    const { digest } = putImage(registry, "a", "v1");
    const { ca, client } = certificates;
    expect((await resolve(hostOf(registry, { ca: [ca], client: [client] }))).descriptor.digest).toBe(digest);
    expect((await failureFrom(resolve(hostOf(registry, { ca: [ca] })))).message).toContain("https://");
  });

  test("that is not spoken is told with what helps", async () => {
    await using registry = await TestRegistry.start();
    const error = await failureFrom(resolve(hostOf(registry, {})));
    expect(error.message).toContain(
      "server gave HTTP response to HTTPS client (use --plain-http, or an http:// server in a hosts.toml)",
    );
  });

  test("with damaged PEM is told", async () => {
    await using registry = await TestRegistry.start({ tls: certificates.server });
    const bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    const error = await failureFrom(resolve(hostOf(registry, { client: [{ cert: bad, key: bad }] })));
    expect(error.message).toContain("the configured certificates cannot be used");
  });
});

describe("proxies", () => {
  /** A proxy for CONNECT and absolute URLs that notes what it was asked. */
  const seen: string[] = [];
  let proxy: RawServer;
  beforeAll(async () => {
    proxy = await new RawServer((socket) => {
      socket.once("data", (first) => {
        const head = first.toString("latin1");
        const [line = ""] = head.split("\r\n");
        seen.push(`${line} ${/^proxy-authorization: .*$/im.exec(head)?.[0] ?? ""}`.trim());
        const target = /^CONNECT \S*:(\d+) /.exec(line)?.[1];
        if (target === undefined) {
          const url = new URL(line.split(" ")[1] ?? "");
          const upstream = connect(Number(url.port), "127.0.0.1", () => {
            upstream.write(head.replace(url.origin, ""));
            upstream.pipe(socket);
            socket.pipe(upstream);
          });
          upstream.on("error", () => socket.destroy());
          return;
        }
        if (head.includes("refuse.example")) {
          socket.end("HTTP/1.1 403 Forbidden\r\n\r\n");
          return;
        }
        const upstream = connect(Number(target), "127.0.0.1", () => {
          socket.write("HTTP/1.1 200 Connection established\r\n\r\n");
          upstream.pipe(socket);
          socket.pipe(upstream);
        });
        upstream.on("error", () => socket.destroy());
      });
    }).start();
  });
  afterAll(() => proxy[Symbol.asyncDispose]());

  test("are used for http by absolute URLs and for https by CONNECT, with their credentials", async () => {
    const certificates = await makeCertificates("DNS:registry.example");
    await using plain = await TestRegistry.start();
    await using secure = await TestRegistry.start({ tls: certificates.server });
    const bytes = someBytes(500_000);
    const via = proxy.url.href.replace("http://", "http://user:pass@");
    for (const [registry, scheme] of [
      [plain, "http"],
      [secure, "https"],
    ] as const) {
      registry.putBlob("a", bytes);
      const port = registry.host.split(":")[1] ?? "";
      const host: RegistryHost = {
        scheme,
        host: `registry.example:${port}`,
        path: "/v2",
        capabilities: new Set(["pull"]),
        plainFallback: false,
        own: true,
        tls: { ca: [certificates.ca] },
        headers: [],
        origins: {},
      };
      const client = quickClient({
        hosts: { hosts: async () => [host] },
        environment: { HTTP_PROXY: via, https_proxy: via },
      });
      const fetched = await client.fetch("registry.example/a:x", descriptorOf(bytes), { verify: true });
      expect((await collect(fetched.body)).byteLength).toBe(bytes.byteLength);
      const asked =
        scheme === "http"
          ? `GET http://registry.example:${port}/v2/a/blobs/`
          : `CONNECT registry.example:${port} HTTP/1.1`;
      expect(seen.at(-1)).toStartWith(asked);
      expect(seen.at(-1)?.toLowerCase()).toEndWith(
        `proxy-authorization: basic ${Buffer.from("user:pass").toString("base64").toLowerCase()}`,
      );
    }
    const refused = quickClient({ environment: { HTTPS_PROXY: via } });
    const error = await failureFrom(refused.resolve("refuse.example/a:v1"));
    expect(error.message).toContain("proxy: refused CONNECT to refuse.example:443: 403 Forbidden");
    expect(error.message).not.toContain("pass");
    const explained = await refused.explain("refuse.example/a:v1");
    expect(explained.hosts[0]?.proxy).toBe(`http://${proxy.url.host}/`);
  });

  test("may be SOCKS 5, and a host's own, whatever the environment says", async () => {
    const asked: string[] = [];
    await using socks = await new RawServer((socket) => {
      let step = 0;
      const onData = (bytes: Buffer): void => {
        step += 1;
        if (step === 1) {
          socket.write(Buffer.from([5, bytes[2] ?? 0xff]));
        } else if (step === 2) {
          const user = bytes.subarray(2, 2 + (bytes[1] ?? 0)).toString();
          const ok = bytes.subarray(3 + user.length).toString() === "pass";
          socket.write(Buffer.from([1, ok ? 0 : 1]));
        } else {
          socket.off("data", onData);
          const length = bytes[4] ?? 0;
          asked.push(bytes.subarray(5, 5 + length).toString());
          const port = bytes.readUInt16BE(5 + length);
          const upstream = connect(port, "127.0.0.1", () => {
            socket.write(Buffer.from([5, 0, 0, 1, 127, 0, 0, 1, 0, 0]));
            upstream.pipe(socket);
            socket.pipe(upstream);
          });
          upstream.on("error", () => socket.end(Buffer.from([5, 5, 0, 1, 0, 0, 0, 0, 0, 0])));
        }
      };
      socket.on("data", onData);
    }).start();
    const certificates = await makeCertificates("DNS:registry.example");
    await using registry = await TestRegistry.start({ tls: certificates.server });
    putImage(registry, "a", "v1");
    const own = (password: string, port = registry.host.split(":")[1] ?? ""): RegistryHost => ({
      scheme: "https",
      host: `registry.example:${port}`,
      path: "/v2",
      capabilities: new Set(["pull", "resolve"]),
      plainFallback: false,
      own: true,
      tls: { ca: [certificates.ca] },
      headers: [],
      proxy: new URL(`socks5://user:${password}@${socks.url.host}`),
      origins: { proxy: "h.toml:2" },
    });
    const clientOf = (host: RegistryHost) =>
      quickClient({ hosts: { hosts: async () => [host] }, environment: { HTTPS_PROXY: "http://127.0.0.1:1" } });
    await clientOf(own("pass")).resolve("registry.example/a:v1");
    expect(asked).toEqual(["registry.example"]);
    const wrong = await failureFrom(clientOf(own("secret-wrong")).resolve("registry.example/a:v1"));
    expect(wrong.message).toContain("proxy: refused its credentials");
    const closed = await failureFrom(clientOf(own("pass", "1")).resolve("registry.example/a:v1"));
    expect(closed.message).toContain("proxy: no way to registry.example:1: connection refused");
    const explained = await clientOf(own("secret-wrong")).explain("registry.example/a:v1");
    expect(explained.hosts[0]?.settings).toContainEqual({
      name: "proxy",
      value: `socks5://${socks.url.host}`,
      from: "h.toml:2",
    });
    expect(JSON.stringify(explained)).not.toContain("secret-wrong");
  });

  test("are chosen by Go's rules", () => {
    const environment = {
      HTTP_PROXY: "http://plain:1",
      HTTPS_PROXY: "secure:2",
      NO_PROXY: "internal.example, .suffix.example,10.0.0.0/8,exact.example:8443",
    };
    const of = (url: string): string | undefined => proxyFor(new URL(url), environment)?.host;
    expect(of("http://a.example")).toBe("plain:1");
    expect(of("https://a.example")).toBe("secure:2");
    expect(of("http://localhost:5000")).toBeUndefined();
    expect(of("http://127.1.2.3")).toBeUndefined();
    expect(of("http://[::1]:5000")).toBeUndefined();
    expect(of("https://internal.example")).toBeUndefined();
    expect(of("https://x.internal.example:5000")).toBeUndefined();
    expect(of("https://notinternal.example")).toBe("secure:2");
    expect(of("https://x.suffix.example")).toBeUndefined();
    expect(of("https://10.200.3.4")).toBeUndefined();
    expect(of("https://11.0.0.1")).toBe("secure:2");
    expect(of("https://exact.example:8443")).toBeUndefined();
    expect(of("https://exact.example")).toBe("secure:2");
    expect(proxyFor(new URL("https://a.example"), { https_proxy: "http://lower:3", no_proxy: "*" })).toBeUndefined();
    expect(proxyFor(new URL("https://a.example"), {})).toBeUndefined();
  });
});

describe("heads", () => {
  test("tell how a body is framed", () => {
    const framing = (lines: string, method = "GET"): string => framingOf(parseHead(lines), method).kind;
    expect(framing("HTTP/1.1 200 OK\r\nContent-Length: 5")).toBe("length");
    expect(framing("HTTP/1.1 200 OK\r\nContent-Length: 5", "HEAD")).toBe("none");
    expect(framing("HTTP/1.1 304 Not Modified\r\nContent-Length: 5")).toBe("none");
    expect(framing("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked")).toBe("chunked");
    expect(framing("HTTP/1.1 200 OK")).toBe("close");
    expect(contentLength(parseHead("HTTP/1.1 200 OK\r\nContent-Length: 5, 5").headers)).toBe(5);
    expect(parseHead("HTTP/1.0 200").keepAlive).toBe(false);
    expect(parseHead("HTTP/1.1 200 OK\r\nConnection: Close").keepAlive).toBe(false);
  });
});
