/** The metrics endpoint: `/v1/metrics` over HTTP, for Prometheus. */
import { classified, type Logger, messageOf } from "@stevedore/base";
import type { MetricsRegistry } from "./registry.ts";

/** Longest time a scrape may take; Prometheus gives up after 10 s by default. */
const SCRAPE_LIMIT_MS = 10_000;

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
  const server = Bun.serve({
    hostname: hostname === "" ? "0.0.0.0" : hostname,
    port: Number(match[2]),
    fetch: async (request) => {
      if (new URL(request.url).pathname !== "/v1/metrics") return new Response("404 page not found\n", { status: 404 });
      try {
        const signal = AbortSignal.any([request.signal, AbortSignal.timeout(SCRAPE_LIMIT_MS)]);
        const headers = { "content-type": "text/plain; version=0.0.4; charset=utf-8" };
        return new Response(await registry.page(signal), { headers });
      } catch (error) {
        log.warn("failed to collect metrics", { error: messageOf(error) });
        return new Response(`${messageOf(error)}\n`, { status: 500 });
      }
    },
  });
  log.info("serving...", { address });
  return { [Symbol.asyncDispose]: async () => server.stop(true) };
}
