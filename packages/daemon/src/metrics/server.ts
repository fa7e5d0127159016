/** The metrics endpoint: `/v1/metrics` over HTTP, for Prometheus. */
import { existsSync } from "node:fs";
import { promisify } from "node:util";
import { gzip, type ZlibOptions } from "node:zlib";
import { classified, encodeText, type Logger, messageOf } from "@stevedore/base";
import type { Family } from "./family.ts";
import { chooseFormat, encodingOf } from "./negotiate.ts";
import { protobufOf } from "./protobuf.ts";
import type { MetricsRegistry } from "./registry.ts";
import { textOf } from "./text.ts";
import { Turns } from "./turns.ts";

/** Longest time a scrape may take; Prometheus gives up after 10 s by default. */
const SCRAPE_LIMIT_MS = 10_000;

const PATH = "/v1/metrics";

/** There when the kernel has IPv6. */
const IPV6 = "/proc/net/if_inet6";

const IN_FLIGHT = {
  name: "promhttp_metric_handler_requests_in_flight",
  help: "Current number of scrapes being served.",
  kind: "gauge",
} as const;
const REQUESTS = {
  name: "promhttp_metric_handler_requests_total",
  help: "Total number of scrapes by HTTP status code.",
  kind: "counter",
} as const;

/**
 * Serves until disposed.
 * @param options.address `host:port`.
 * @throws invalid-argument for an address that is none; unknown when the port is taken
 */
export function serveMetrics(options: {
  readonly address: string;
  readonly registry: MetricsRegistry;
  readonly log: Logger;
}): AsyncDisposable {
  const { address, registry, log } = options;
  const match = /^(.*):(\d{1,5})$/.exec(address);
  if (match === null) throw classified("invalid-argument", `listen on metrics address "${address}": want host:port`);
  const hostname = (match[1] ?? "").replace(/^\[(.*)\]$/, "$1");
  let inFlight = 0;
  // The codes the peer shows from its start.
  const requests = new Map<number, number>([200, 500, 503].map((code) => [code, 0]));
  registry.register((page) => {
    page.add(IN_FLIGHT, undefined, inFlight);
    for (const [code, count] of requests) page.add(REQUESTS, { code: String(code) }, count);
  });
  // Scrapes that meet share one look at everything.
  let gathering: Promise<readonly Family[]> | undefined;
  const gather = async (): Promise<readonly Family[]> => {
    gathering ??= registry
      .page(AbortSignal.timeout(SCRAPE_LIMIT_MS))
      .then((page) => page.families())
      .finally(() => {
        gathering = undefined;
      });
    return gathering;
  };
  const scrape = async (request: Request): Promise<Response> => {
    inFlight++;
    let code = 200;
    try {
      return await answerTo(request, await gather());
    } catch (error) {
      code = 500;
      log.warn("failed to collect metrics", { error: messageOf(error) });
      const text = `An error has occurred while serving metrics:\n\n${messageOf(error)}\n`;
      return new Response(text, { status: code, headers: { "content-type": "text/plain; charset=utf-8" } });
    } finally {
      inFlight--;
      requests.set(code, (requests.get(code) ?? 0) + 1);
    }
  };
  const listen = (host: string): Bun.Server<undefined> =>
    Bun.serve({
      hostname: host,
      port: Number(match[2]),
      // A scrape has its own limit.
      idleTimeout: 0,
      fetch: async (request) => (new URL(request.url).pathname === PATH ? scrape(request) : notFound()),
    });
  // Without a host: on every address, of both kinds where the machine has both, as Go listens.
  const server = hostname === "" ? listen(existsSync(IPV6) ? "::" : "0.0.0.0") : listen(hostname);
  log.info("serving...", { address });
  return { [Symbol.asyncDispose]: async () => server.stop(true) };
}

function notFound(): Response {
  const headers = { "content-type": "text/plain; charset=utf-8", "x-content-type-options": "nosniff" };
  return new Response("404 page not found\n", { status: 404, headers });
}

async function answerTo(request: Request, families: readonly Family[]): Promise<Response> {
  const format = chooseFormat(request.headers.get("accept") ?? "");
  const encoding = encodingOf(request.headers.get("accept-encoding") ?? "");
  const turns = new Turns();
  const parts: Uint8Array[] = [];
  for (const family of families) {
    parts.push(format.kind === "protobuf" ? protobufOf([family]) : encodeText(textOf([family])));
    await turns.give(request.signal);
  }
  const bytes = Buffer.concat(parts);
  const headers: Record<string, string> = { "content-type": format.contentType };
  if (encoding === "identity") return new Response(bytes, { headers });
  headers["content-encoding"] = encoding;
  // Level 1: a page of 500 containers is 3 MB of much the same. Packed on another thread.
  const packed = encoding === "gzip" ? await gzipped(bytes, { level: 1 }) : await Bun.zstdCompress(bytes, { level: 1 });
  return new Response(packed, { headers });
}

const gzipped = promisify<Uint8Array, ZlibOptions, Buffer<ArrayBuffer>>(gzip);
