import { readFile } from "node:fs/promises";
import { classified, messageOf } from "@stevedore/base";
import { parseJson } from "@stevedore/oci";
import { expectConforming, isString, optional, recordOf, shape, withoutNulls } from "@stevedore/oci/json-check";
import { codeOf } from "../http/failure.ts";
import { type Credential, type CredentialQuery, type CredentialSource, decodeBasic, isOwnHost } from "./credentials.ts";
import { askHelper, type HelperRunner } from "./helper.ts";

/** What is read of a docker config.json. */
export interface DockerConfig {
  readonly auths: Readonly<Record<string, DockerAuth>>;
  /** Helper for all registries, by its suffix: `pass` for docker-credential-pass. */
  readonly credsStore?: string;
  /** Helpers by registry. */
  readonly credHelpers: Readonly<Record<string, string>>;
}

/** An entry of `auths`. */
export interface DockerAuth {
  readonly username?: string;
  readonly password?: string;
  /** `base64(username:password)`. */
  readonly auth?: string;
  readonly identitytoken?: string;
  readonly registrytoken?: string;
}

/** Largest config.json that is read: 1 MiB, thousands of registries. */
const MAX_SIZE = 1 << 20;

/** Docker Hub's key in config files, older than the protocol in use. */
const HUB_KEY = "https://index.docker.io/v1/";

interface DockerConfigFile {
  readonly auths?: Readonly<Record<string, DockerAuth>>;
  readonly credsStore?: string;
  readonly credHelpers?: Readonly<Record<string, string>>;
}

const FILE = shape<DockerConfigFile>({
  auths: optional(
    recordOf(
      shape<DockerAuth>({
        username: optional(isString),
        password: optional(isString),
        auth: optional(isString),
        identitytoken: optional(isString),
        registrytoken: optional(isString),
      }),
    ),
  ),
  credsStore: optional(isString),
  credHelpers: optional(recordOf(isString)),
});

/**
 * Reads a docker config.json. Other keys are Docker's own and are left alone.
 *
 * @param file names it in errors
 * @throws invalid-argument with file and key, never with a value
 */
export function parseDockerConfig(bytes: Uint8Array | string, file: string): DockerConfig {
  let document: unknown;
  try {
    document = withoutNulls(parseJson(bytes, { maxSize: MAX_SIZE }));
  } catch (error) {
    // The parser tells positions, not contents.
    throw classified("invalid-argument", `read docker config ${file}: ${messageOf(error)}`);
  }
  try {
    const found = expectConforming<DockerConfigFile>(document, "", FILE);
    const { auths = {}, credsStore, credHelpers = {} } = found;
    return { auths, credHelpers, ...(credsStore === undefined || credsStore === "" ? {} : { credsStore }) };
  } catch (error) {
    // What was found may be a secret in the wrong place.
    const where = messageOf(error).replace(/found .*, want/, "found another kind of value, want");
    throw classified("invalid-argument", `read docker config ${file}${where}`);
  }
}

/** The host of a key of `auths` or `credHelpers`, which may be a URL. */
export function hostOfKey(key: string): string {
  const withoutScheme = key.replace(/^https?:\/\//, "");
  const slash = withoutScheme.indexOf("/");
  return slash < 0 ? withoutScheme : withoutScheme.slice(0, slash);
}

/** Reads a config file whenever it changed. */
export interface DockerConfigSourceOptions {
  readonly file: string;
  /** The file's bytes; undefined when there is none. Default: the file system's. */
  readonly read?: (file: string) => Promise<Uint8Array | undefined>;
  /** Starts helpers; without it, a config that names one is an error for its hosts. */
  readonly helpers?: HelperRunner;
}

/** Credentials of a docker config.json: its helper for the host, its helper for all, then its own entries. */
export function dockerConfigSource(options: DockerConfigSourceOptions): CredentialSource {
  const { file, read = readIfThere, helpers } = options;
  let seen: { readonly bytes: Uint8Array; readonly config: DockerConfig } | undefined;
  const load = async (): Promise<DockerConfig | undefined> => {
    const bytes = await read(file);
    if (bytes === undefined) return undefined;
    if (seen === undefined || Buffer.compare(seen.bytes, bytes) !== 0) {
      seen = { bytes, config: parseDockerConfig(bytes, file) };
    }
    return seen.config;
  };
  return {
    name: `docker config ${file}`,
    async find(query) {
      const config = await load();
      if (config === undefined) return undefined;
      const helper = helperFor(config, query);
      if (helper !== undefined) {
        const { server, program } = helper;
        const from = `helper docker-credential-${program} by ${file}`;
        if (helpers === undefined) {
          throw classified(
            "failed-precondition",
            `credentials for ${query.host}: no helper can be started here (${from})`,
          );
        }
        const found = await askHelper(helpers, { program, server, from, signal: query.signal });
        if (found !== undefined) return found;
      }
      return ownEntry(config, query, `docker config ${file}`);
    },
  };
}

async function readIfThere(file: string): Promise<Uint8Array | undefined> {
  try {
    return await readFile(file);
  } catch (error) {
    if (codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR") return undefined;
    throw classified("permission-denied", `read docker config ${file}: ${messageOf(error)}`, { cause: error });
  }
}

function helperFor(
  config: DockerConfig,
  query: CredentialQuery,
): { readonly program: string; readonly server: string } | undefined {
  const hub = isHub(query);
  for (const [key, program] of Object.entries(config.credHelpers)) {
    if (matches(key, query)) return { program, server: hub && hostOfKey(key) !== query.host ? HUB_KEY : key };
  }
  if (config.credsStore === undefined) return undefined;
  return { program: config.credsStore, server: hub ? HUB_KEY : query.host };
}

function isHub(query: CredentialQuery): boolean {
  return isOwnHost(query.host, "docker.io");
}

/** Whether a config key is about the host that asks. A mirror has a host of its own, so its own key. */
function matches(key: string, query: CredentialQuery): boolean {
  const host = hostOfKey(key);
  return host === query.host || (isHub(query) && isOwnHost(host, "docker.io"));
}

function ownEntry(config: DockerConfig, query: CredentialQuery, from: string): Credential | undefined {
  for (const [key, entry] of Object.entries(config.auths)) {
    if (!matches(key, query)) continue;
    const found = credentialOfAuth(entry, `${from}, auths.${JSON.stringify(key)}`);
    if (found !== undefined) return found;
  }
  return undefined;
}

/**
 * The credential of an entry, in the order CRI takes its fields: a token for the registry, a user with a password, an
 * identity token, the packed pair.
 *
 * @throws invalid-argument for a packed pair that is none
 */
export function credentialOfAuth(entry: DockerAuth, from: string): Credential | undefined {
  const { username = "", password = "", auth = "", identitytoken = "", registrytoken = "" } = entry;
  if (registrytoken !== "") return { kind: "registry-token", token: registrytoken, from };
  if (identitytoken !== "") return { kind: "identity-token", token: identitytoken, from };
  if (username !== "") return { kind: "basic", username, password, from };
  if (auth === "") return undefined;
  const pair = decodeBasic(auth);
  if (pair === undefined) {
    throw classified("invalid-argument", `${from}: the value of "auth" is not base64 of user:password`);
  }
  return { kind: "basic", ...pair, from };
}
