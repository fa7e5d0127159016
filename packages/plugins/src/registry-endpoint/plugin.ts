/**
 * The endpoint's section of the configuration, `[plugins."stevedore.registry.v1.endpoint"]`, and its listener.
 */
import { readFile } from "node:fs/promises";
import { classified, type Logger, messageOf } from "@stevedore/base";
import { openUsers } from "./htpasswd.ts";
import { RegistryEndpoint, type RegistryEndpointOptions } from "./impl.ts";

/** The section's keys, with containerd's way of spelling them in TOML. */
export interface EndpointConfig {
  /** `host:port`. */
  readonly address: string;
  readonly namespaces: readonly string[];
  readonly writable: boolean;
  readonly tlsCert: string;
  readonly tlsKey: string;
  /** Clients must show a certificate of this authority; "" for none. */
  readonly tlsCa: string;
  /** File of users and passwords, as `htpasswd -B` writes it; "" for none. */
  readonly htpasswd: string;
}

const LOOPBACK = /^(?:localhost|127\.\d+\.\d+\.\d+|::1)$/;
/** Seconds. */
const IDLE_S = 255;
/** Largest body that is taken: a layer of any size, since it is written to disk as it arrives. */
const MAX_BODY = Number.MAX_SAFE_INTEGER;

/**
 * Serves until disposed.
 * @throws invalid-argument for a setting that makes no sense; unknown when the port is taken
 */
export async function serveRegistry(options: {
  readonly config: EndpointConfig;
  readonly stores: RegistryEndpointOptions["stores"];
  readonly log: Logger;
}): Promise<AsyncDisposable & { readonly port: number }> {
  const { config, stores, log } = options;
  const match = /^(.*):(\d{1,5})$/.exec(config.address);
  if (match === null) throw wrong(`listen on address "${config.address}": want host:port`);
  const [namespace, ...others] = config.namespaces;
  if (namespace === undefined) throw wrong("namespaces is empty: want at least one");
  if ((config.tlsCert === "") !== (config.tlsKey === "")) throw wrong("tls_cert and tls_key are wanted together");
  if (config.tlsCa !== "" && config.tlsCert === "")
    throw wrong("tls_ca is for clients' certificates, which need tls_cert");
  const host = (match[1] ?? "").replace(/^\[(.*)\]$/, "$1");
  const endpoint = new RegistryEndpoint({
    stores,
    namespaces: [namespace, ...others],
    writable: config.writable,
    ...(config.htpasswd === "" ? {} : { admit: await openUsers(config.htpasswd) }),
    log,
  });
  if (config.writable && config.htpasswd === "" && config.tlsCa === "" && !LOOPBACK.test(host)) {
    log.warn("the registry endpoint takes pushes from anyone who reaches it", { address: config.address });
  }
  const server = Bun.serve({
    hostname: host === "" ? "0.0.0.0" : host,
    port: Number(match[2]),
    maxRequestBodySize: MAX_BODY,
    // Bun's longest; bytes in either direction renew it. A client that has gone without a word holds no upload and no descriptor for ever.
    idleTimeout: IDLE_S,
    ...(config.tlsCert === "" ? {} : { tls: await tlsOf(config) }),
    fetch: async (request) => endpoint.answer(request),
  });
  log.info("serving...", { address: config.address });
  return { port: server.port ?? 0, [Symbol.asyncDispose]: async () => server.stop(true) };
}

async function tlsOf({ tlsCert, tlsKey, tlsCa }: EndpointConfig): Promise<Bun.TLSOptions> {
  const read = async (path: string): Promise<string> => {
    try {
      return await readFile(path, "utf8");
    } catch (error) {
      throw wrong(`read ${path}: ${messageOf(error)}`);
    }
  };
  return {
    cert: await read(tlsCert),
    key: await read(tlsKey),
    ...(tlsCa === "" ? {} : { ca: await read(tlsCa), requestCert: true, rejectUnauthorized: true }),
  };
}

function wrong(what: string): Error {
  return classified("invalid-argument", `registry endpoint: ${what}: invalid argument`);
}
