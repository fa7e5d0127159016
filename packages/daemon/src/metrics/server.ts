/** The metrics endpoint: `/v1/metrics` over HTTP, for Prometheus. */
import { classified, type Logger, messageOf } from "@stevedore/base";
import { chooseFormat, encodingOf } from "./negotiate.ts";
import { protobufOf } from "./protobuf.ts";
import type { MetricsRegistry } from "./registry.ts";
import { textOf } from "./text.ts";

/** Longest time a scrape may take; Prometheus gives up after 10 s by default. */
const SCRAPE_LIMIT_MS = 10_000;

const PATH = "/v1/metrics";

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
  const scrape = async (request: Request): Promise<Response> => {
    inFlight++;
    let code = 200;
    try {
      const signal = AbortSignal.any([request.signal, AbortSignal.timeout(SCRAPE_LIMIT_MS)]);
      return await pageFor(request, registry, signal);
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
  const server = Bun.serve({
    hostname: hostname === "" ? "::" : hostname,
    port: Number(match[2]),
    // A scrape has its own limit.
    idleTimeout: 0,
    fetch: async (request) => (new URL(request.url).pathname === PATH ? scrape(request) : notFound()),
  });
  log.info("serving...", { address });
  return { [Symbol.asyncDispose]: async () => server.stop(true) };
}

function notFound(): Response {
  const headers = { "content-type": "text/plain; charset=utf-8", "x-content-type-options": "nosniff" };
  return new Response("404 page not found\n", { status: 404, headers });
}

async function pageFor(request: Request, registry: MetricsRegistry, signal: AbortSignal): Promise<Response> {
  const format = chooseFormat(request.headers.get("accept") ?? "");
  const encoding = encodingOf(request.headers.get("accept-encoding") ?? "");
  const families = (await registry.page(signal)).families();
  const bytes = format.kind === "protobuf" ? protobufOf(families) : new TextEncoder().encode(textOf(families));
  const headers: Record<string, string> = { "content-type": format.contentType };
  if (encoding === "identity") return new Response(bytes, { headers });
  headers["content-encoding"] = encoding;
  // Level 1: a page of 500 containers is 4 MB of much the same.
  const packed = encoding === "gzip" ? Bun.gzipSync(bytes, { level: 1 }) : await Bun.zstdCompress(bytes, { level: 1 });
  return new Response(packed, { headers });
}
