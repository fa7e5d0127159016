import { readFile } from "node:fs/promises";
import { classified, messageOf } from "@stevedore/base";
import {
  conforms,
  expectConforming,
  isBoolean,
  isString,
  listOf,
  optional,
  recordOf,
  shape,
} from "@stevedore/oci/json-check";
import type { Credential, CredentialSource } from "../auth/credentials.ts";
import { credentialOfAuth, type DockerAuth, hostOfKey } from "../auth/docker-config.ts";
import { isLoopback } from "../http/proxy.ts";
import type { TlsSettings } from "../http/tls.ts";
import { defaultHost, nameOfHost } from "./defaults.ts";
import { hostsDir } from "./hosts-dir.ts";
import type { HostsSource, RegistryHost } from "./types.ts";

/**
 * The `registry` table of CRI's configuration, versions 1 and 2 alike: `plugins.cri.registry`, and
 * `plugins."io.containerd.grpc.v1.cri".registry`. Versions 3 and later keep only `config_path` and the deprecated rest.
 */
export interface CriRegistryConfig {
  /** Folders of hosts.toml, separated by colons. Not together with mirrors or TLS settings. */
  readonly config_path?: string;
  readonly mirrors?: Readonly<Record<string, CriMirror>>;
  readonly configs?: Readonly<Record<string, CriHostConfig>>;
  /** Before `configs`: credentials by URL of a registry. */
  readonly auths?: Readonly<Record<string, CriAuth>>;
  /** Sent to every registry. */
  readonly headers?: Readonly<Record<string, readonly string[]>>;
}

interface CriMirror {
  readonly endpoint?: readonly string[];
}

interface CriAuth {
  readonly username?: string;
  readonly password?: string;
  readonly auth?: string;
  readonly identitytoken?: string;
}

interface CriTls {
  readonly insecure_skip_verify?: boolean;
  readonly ca_file?: string;
  readonly cert_file?: string;
  readonly key_file?: string;
}

interface CriHostConfig {
  readonly auth?: CriAuth;
  readonly tls?: CriTls;
}

const AUTH = shape<CriAuth>({
  username: optional(isString),
  password: optional(isString),
  auth: optional(isString),
  identitytoken: optional(isString),
});

const CONFIG = shape<CriRegistryConfig>({
  config_path: optional(isString),
  mirrors: optional(recordOf(shape<CriMirror>({ endpoint: optional(listOf(isString)) }))),
  configs: optional(
    recordOf(
      shape<CriHostConfig>({
        auth: optional(AUTH),
        tls: optional(
          shape<CriTls>({
            insecure_skip_verify: optional(isBoolean),
            ca_file: optional(isString),
            cert_file: optional(isString),
            key_file: optional(isString),
          }),
        ),
      }),
    ),
  ),
  auths: optional(recordOf(AUTH)),
  headers: optional(recordOf(listOf(isString))),
});

/** What CRI's table means for this client. */
export interface CriRegistry {
  readonly hosts: HostsSource;
  readonly credentials: CredentialSource;
}

/**
 * Reads the table.
 *
 * @param where names its section in errors and explanations: `plugins."io.containerd.grpc.v1.cri".registry`
 * @throws invalid-argument with section and key
 */
export function criRegistry(table: unknown, where: string): CriRegistry {
  let config: CriRegistryConfig;
  try {
    config = expectConforming<CriRegistryConfig>(table, where, CONFIG);
  } catch (error) {
    // What was found may be a secret in the wrong place.
    throw classified(
      "invalid-argument",
      messageOf(error).replace(/found .*, want/, "found another kind of value, want"),
    );
  }
  const { config_path: configPath = "", mirrors = {}, configs = {}, auths = {}, headers = {} } = config;
  const withTls = Object.values(configs).some(({ tls }) => tls !== undefined);
  const roots = configPath.split(":").filter((root) => root !== "");
  if (roots.length > 0 && (Object.keys(mirrors).length > 0 || withTls)) {
    throw classified(
      "invalid-argument",
      `${where}: \`mirrors\` and \`configs.*.tls\` cannot be set when \`config_path\` is provided`,
    );
  }
  const sent = Object.entries(headers).flatMap(([name, values]) =>
    values.map((value): [string, string] => [name, value]),
  );
  const byFolder = roots.length === 0 ? undefined : hostsDir({ roots });
  return {
    credentials: criCredentials(configs, auths, where),
    hosts: {
      async hosts(namespace) {
        const found = await (byFolder?.hosts(namespace) ?? fromMirrors(namespace, { mirrors, configs, where }));
        return sent.length === 0 ? found : found.map((host) => ({ ...host, headers: [...sent, ...host.headers] }));
      },
    },
  };
}

interface MirrorTables {
  readonly mirrors: Readonly<Record<string, CriMirror>>;
  readonly configs: Readonly<Record<string, CriHostConfig>>;
  readonly where: string;
}

/** Endpoints in their order, then the registry itself unless it is among them; `*` is for namespaces without an entry. */
async function fromMirrors(namespace: string, tables: MirrorTables): Promise<readonly RegistryHost[]> {
  const { mirrors, configs, where } = tables;
  const key = Object.hasOwn(mirrors, namespace) ? namespace : "*";
  const endpoints = Object.hasOwn(mirrors, key) ? (mirrors[key]?.endpoint ?? []) : [];
  const from = `${where}.mirrors.${JSON.stringify(key)}.endpoint`;
  const own = defaultHost(namespace);
  const hosts: RegistryHost[] = [];
  for (const endpoint of endpoints) {
    const url = endpointUrl(endpoint, from);
    const isOwn = url.host === namespace || url.host === own.host;
    hosts.push(await withConfig(mirrorHost(url, isOwn, from), namespace, { configs, where }));
  }
  if (!hosts.some(({ host }) => host === namespace || host === own.host)) {
    const scheme = isLoopback(nameOfHost(own.host)) ? "http" : "https";
    const last: RegistryHost = {
      ...own,
      scheme,
      plainFallback: false,
      tls: {},
      capabilities: new Set(["pull", "resolve", "push", "referrers"]),
    };
    hosts.push(await withConfig(last, namespace, { configs, where }));
  }
  return hosts;
}

function endpointUrl(endpoint: string, from: string): URL {
  const scheme = isLoopback(nameOfHost(endpoint.split("/", 1)[0] ?? "")) ? "http" : "https";
  const url = URL.parse(endpoint.includes("://") ? endpoint : `${scheme}://${endpoint}`);
  if (url === null || (url.protocol !== "http:" && url.protocol !== "https:") || url.hostname === "") {
    throw classified("invalid-argument", `${from}: want URLs of http or https`);
  }
  if (url.username !== "" || url.password !== "") {
    throw classified("invalid-argument", `${from}: an endpoint holds no user; give credentials in configs.*.auth`);
  }
  return url;
}

function mirrorHost(url: URL, own: boolean, from: string): RegistryHost {
  const path = url.pathname.replace(/\/+$/, "");
  return {
    scheme: url.protocol === "http:" ? "http" : "https",
    host: url.host,
    path: path === "" ? "/v2" : path,
    capabilities: new Set(["pull", "resolve", "referrers", ...(own ? (["push"] as const) : [])]),
    plainFallback: false,
    own,
    tls: {},
    headers: [],
    origins: { server: from },
  };
}

async function withConfig(
  host: RegistryHost,
  namespace: string,
  tables: Pick<MirrorTables, "configs" | "where">,
): Promise<RegistryHost> {
  const key = [host.host, ...(host.own ? [namespace] : [])].find((name) => Object.hasOwn(tables.configs, name));
  const tls = key === undefined ? undefined : tables.configs[key]?.tls;
  if (key === undefined || tls === undefined) return host;
  const from = `${tables.where}.configs.${JSON.stringify(key)}.tls`;
  const { insecure_skip_verify: skipVerify, ca_file: ca = "", cert_file: cert = "", key_file: keyFile = "" } = tls;
  if ((cert === "") !== (keyFile === "")) {
    throw classified("invalid-argument", `${from}: cert_file and key_file go together`);
  }
  const settings: TlsSettings = {
    ...(ca === "" ? {} : { ca: [await readNamed(ca, `${from}.ca_file`)] }),
    ...(cert === ""
      ? {}
      : {
          client: [
            { cert: await readNamed(cert, `${from}.cert_file`), key: await readNamed(keyFile, `${from}.key_file`) },
          ],
        }),
    ...(skipVerify === undefined ? {} : { skipVerify }),
  };
  return {
    ...host,
    tls: settings,
    origins: {
      ...host.origins,
      ...(ca === "" ? {} : { ca: `${from}.ca_file` }),
      ...(cert === "" ? {} : { client: `${from}.cert_file` }),
      ...(skipVerify === undefined ? {} : { skip_verify: `${from}.insecure_skip_verify` }),
    },
  };
}

async function readNamed(file: string, by: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    throw classified("not-found", `read ${file}, named by ${by}: ${messageOf(error)}`, { cause: error });
  }
}

function criCredentials(
  configs: Readonly<Record<string, CriHostConfig>>,
  auths: Readonly<Record<string, CriAuth>>,
  where: string,
): CredentialSource {
  return {
    name: `${where}.configs`,
    async find({ host, namespace, own }): Promise<Credential | undefined> {
      for (const name of own ? [host, namespace] : [host]) {
        const auth = Object.hasOwn(configs, name) ? configs[name]?.auth : undefined;
        if (auth !== undefined) return credentialOf(auth, `${where}.configs.${JSON.stringify(name)}.auth`);
        const key = Object.keys(auths).find((text) => hostOfKey(text) === name);
        const old = key === undefined ? undefined : auths[key];
        if (old !== undefined) return credentialOf(old, `${where}.auths.${JSON.stringify(key)}`);
      }
      return undefined;
    },
  };
}

/** CRI's order: a user with a password, an identity token, the packed pair. */
function credentialOf(auth: CriAuth, from: string): Credential | undefined {
  const { username = "", password = "" } = auth;
  if (username !== "") return { kind: "basic", username, password, from };
  const rest: DockerAuth = conforms<DockerAuth>(auth, AUTH) ? auth : {};
  return credentialOfAuth(rest, from);
}
