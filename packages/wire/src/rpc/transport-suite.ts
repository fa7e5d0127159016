import { describe, expect, test } from "bun:test";
import { create } from "@bufbuild/protobuf";
import { classified, decodeText, encodeText, errorClassOf } from "@stevedore/base";
import { Content, InfoSchema, WriteAction } from "../../gen/containerd/services/content/v1/content_pb.ts";
import { Version } from "../../gen/containerd/services/version/v1/version_pb.ts";
import { createClient } from "./client.ts";
import { Router } from "./router.ts";
import type { CallContext, Client, Transport } from "./types.ts";

/** How a carrier differs where the contract lets it. */
export interface TransportTraits {
  /** The server's handler learns of a client's cancel while the connection lives. */
  readonly seesCancel: boolean;
  /** Response headers and trailers travel. */
  readonly hasTrailers: boolean;
}

export interface ServedTransport {
  readonly transport: Transport;
  /** Frees both sides. */
  readonly close: () => Promise<void>;
}

/** One suite for every carrier: `serve` puts the router behind a fresh transport. */
export function transportSuite(
  name: string,
  traits: TransportTraits,
  serve: (router: Router) => Promise<ServedTransport>,
): void {
  const withClient = async (run: (client: Client<typeof Content>, transport: Transport) => Promise<void>) => {
    const { transport, close } = await serve(echoRouter());
    try {
      await run(createClient(Content, transport), transport);
    } finally {
      await close();
    }
  };

  describe(`Transport contract: ${name}`, () => {
    test("a unary call answers, with int64 and timestamps whole", () =>
      withClient(async (client) => {
        const { info } = await client.info({ digest: "sha256:a" });
        expect(info?.digest).toBe("sha256:a");
        expect(info?.size).toBe(2n ** 62n);
        expect(info?.createdAt).toMatchObject({ seconds: 1_700_000_000n, nanos: 999_999_999 });
        expect(info?.labels).toEqual({ "containerd.io/x": "ü" });
      }));

    test("errors keep class, message and details", () =>
      withClient(async (client) => {
        const error = await failure(client.info({ digest: "missing" }));
        expect(errorClassOf(error)).toBe("not-found");
        expect(error).toMatchObject({ message: "content missing: not found", details: [{ typeUrl: "t.D" }] });
        const conflict = await failure(client.info({ digest: "conflict" }));
        expect(errorClassOf(conflict)).toBe("conflict");
      }));

    test("a method without implementation and a service that is not there are not implemented", () =>
      withClient(async (client, transport) => {
        expect(errorClassOf(await failure(client.status({ ref: "x" })))).toBe("not-implemented");
        expect(errorClassOf(await failure(createClient(Version, transport).version({})))).toBe("not-implemented");
      }));

    test("metadata arrives, keys lowered, several values in order", () =>
      withClient(async (client) => {
        const metadata = { "Containerd-Namespace": "moby", k: ["1", "2"] };
        const { info } = await client.info({ digest: "metadata" }, { metadata });
        expect(info?.labels).toMatchObject({ "containerd-namespace": "moby", k: "1|2" });
      }));

    test("a server stream gives all its messages in order", () =>
      withClient(async (client) => {
        const offsets: bigint[] = [];
        for await (const message of client.read({ digest: "count", size: 500n })) offsets.push(message.offset);
        expect(offsets).toEqual(Array.from({ length: 500 }, (_, i) => BigInt(i)));
      }));

    test("a server stream carries megabytes", () =>
      withClient(async (client) => {
        let total = 0;
        for await (const message of client.read({ digest: "bytes", size: 24n })) total += message.data.byteLength;
        expect(total).toBe(24 << 20);
      }));

    test("a server stream that fails gives what came first", () =>
      withClient(async (client) => {
        const got: bigint[] = [];
        const error = await failure(
          (async () => {
            for await (const message of client.read({ digest: "fail", size: 3n })) got.push(message.offset);
          })(),
        );
        expect(got).toEqual([0n, 1n, 2n]);
        expect(error).toMatchObject({ errorClass: "data-loss", message: "disk: data loss" });
      }));

    test("a bidi stream answers each request as it comes", () =>
      withClient(async (client) => {
        const next = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
        async function* requests() {
          yield { action: WriteAction.WRITE, data: encodeText("ab"), ref: "r" };
          await next[0]?.promise;
          yield { action: WriteAction.COMMIT, data: encodeText("c") };
          await next[1]?.promise;
        }
        const seen: [number, bigint][] = [];
        for await (const answer of client.write(requests())) {
          seen.push([answer.action, answer.offset]);
          next[seen.length - 1]?.resolve();
        }
        expect(seen).toEqual([
          [WriteAction.WRITE, 2n],
          [WriteAction.COMMIT, 3n],
        ]);
      }));

    test("a deadline ends a call with deadline-exceeded, on the server too", () =>
      withClient(async (client) => {
        const started = Date.now();
        const error = await failure(client.delete({ digest: "hang" }, { timeoutMs: 60 }));
        expect(errorClassOf(error)).toBe("deadline-exceeded");
        expect(Date.now() - started).toBeLessThan(3000);
        await until(() => hung.at(-1)?.signal.aborted === true);
        expect(hung.at(-1)?.deadline).toBeInstanceOf(Date);
      }));

    test("a signal ends a call with canceled", () =>
      withClient(async (client) => {
        const before = hung.length;
        const controller = new AbortController();
        const pending = failure(client.delete({ digest: "hang" }, { signal: controller.signal }));
        await until(() => hung.length > before);
        controller.abort();
        expect(errorClassOf(await pending)).toBe("canceled");
        if (traits.seesCancel) await until(() => hung.at(-1)?.signal.aborted === true);
      }));

    test("leaving a stream early ends it, and the transport lives", () =>
      withClient(async (client) => {
        for await (const _ of client.read({ digest: "count", size: 100_000n })) break;
        expect((await client.info({ digest: "d" })).info?.digest).toBe("d");
      }));

    test("closing the transport ends pending calls with unavailable", () =>
      withClient(async (client, transport) => {
        const before = hung.length;
        const pending = failure(client.delete({ digest: "hang" }));
        await until(() => hung.length > before);
        await transport.close();
        await transport.close();
        expect(errorClassOf(await pending)).toBe("unavailable");
        expect(errorClassOf(await failure(client.info({ digest: "a" })))).toBe("unavailable");
      }));

    if (traits.hasTrailers) {
      test("response headers and trailers arrive", () =>
        withClient(async (client) => {
          const got: (string | undefined)[] = [];
          await client.info(
            { digest: "headers" },
            {
              onHeaders: (headers) => got.push(headers.get("x-head")),
              onTrailers: (trailers) => got.push(trailers.get("x-tail")),
            },
          );
          expect(got).toEqual(["h", "t"]);
        }));
    }
  });
}

/** Contexts of calls that hang until they are aborted, oldest first. */
const hung: CallContext[] = [];

function echoRouter(): Router {
  return new Router().service(Content, {
    async info({ digest }, context) {
      if (digest === "missing") {
        throw classified("not-found", "content missing: not found", {
          details: [{ typeUrl: "t.D", value: new Uint8Array([1]) }],
        });
      }
      if (digest === "conflict") throw classified("conflict", "held: conflict");
      if (digest === "headers") {
        context.responseHeaders.set("x-head", "h");
        context.responseTrailers.set("x-tail", "t");
      }
      const labels: Record<string, string> =
        digest === "metadata"
          ? Object.fromEntries([...context.metadata].map(([key, values]) => [key, values.join("|")]))
          : { "containerd.io/x": "ü" };
      const info = create(InfoSchema, {
        digest,
        size: 2n ** 62n,
        createdAt: { seconds: 1_700_000_000n, nanos: 999_999_999 },
        labels,
      });
      return { info };
    },
    async *read({ digest, size }) {
      const data = digest === "bytes" ? new Uint8Array(1 << 20) : new Uint8Array(0);
      for (let offset = 0n; offset < size; offset++) yield { offset, data };
      if (digest === "fail") throw classified("data-loss", "disk: data loss");
    },
    async *write(requests) {
      let text = "";
      for await (const request of requests) {
        text += decodeText(request.data);
        yield { action: request.action, offset: BigInt(text.length) };
      }
    },
    delete: (_request, context) =>
      new Promise((_resolve, reject) => {
        hung.push(context);
        context.signal.addEventListener("abort", () => reject(context.signal.reason), { once: true });
      }),
  });
}

async function failure(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => undefined,
    (error: unknown) => error,
  );
}

async function until(done: () => boolean): Promise<void> {
  const limit = Date.now() + 5000;
  while (!done()) {
    if (Date.now() > limit) throw new Error("condition not reached in 5 s");
    await Bun.sleep(2);
  }
}
