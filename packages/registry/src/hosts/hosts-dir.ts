import { readdir, readFile, stat } from "node:fs/promises";
import { isAbsolute, join } from "node:path";
import { type ClassifiedError, classified, messageOf } from "@stevedore/base";
import { codeOf } from "../http/failure.ts";
import type { TlsSettings } from "../http/tls.ts";
import { type DefaultHostOptions, defaultHost, nameOfHost, portOfHost } from "./defaults.ts";
import { type HostEntry, parseHostsToml } from "./hosts-toml.ts";
import { CAPABILITIES, type HostsSource, type RegistryHost } from "./types.ts";

/** Largest hosts.toml and PEM file that is read. A bundle of all public authorities has 220 KiB. */
const MAX_FILE = 4 << 20;

/** Names of files a namespace's folder may hold in Docker's form. */
const MAX_CERTS = 256;

/** A folder of folders, one per namespace: `/etc/containerd/certs.d`, `/etc/docker/certs.d`. */
export interface HostsDirOptions extends DefaultHostOptions {
  /** Searched in this order; the first that has a folder for the namespace decides. */
  readonly roots: readonly string[];
}

/**
 * Hosts by folders. Files are looked at on each question and read when they changed (time, inode or size), so an edit
 * or a renewed certificate takes effect with the next pull.
 */
export function hostsDir(options: HostsDirOptions): HostsSource {
  const cache = new Map<string, Loaded>();
  return {
    async hosts(namespace) {
      const folder = await findFolder(options.roots, namespace);
      const key = `${folder ?? ""}\0${namespace}`;
      const known = cache.get(key);
      if (known !== undefined && (await isCurrent(known))) return known.hosts;
      const made =
        folder === undefined
          ? { hosts: [defaultHost(namespace, options)], marks: [] }
          : await load(folder, namespace, options);
      if (cache.size >= MAX_CACHED) cache.clear();
      cache.set(key, made);
      return made.hosts;
    },
  };
}

/** Namespaces whose hosts are remembered. */
const MAX_CACHED = 256;

/**
 * Reads every folder of a root, as a daemon does at its start, so that typing errors are told before a pull needs them.
 *
 * @returns one message per folder that is wrong; none when the root is not there
 */
export async function checkHostsDir(root: string): Promise<readonly string[]> {
  let names: readonly string[];
  try {
    names = (await readdir(root, { withFileTypes: true })).filter((one) => !one.isFile()).map(({ name }) => name);
  } catch (error) {
    return isAbsent(error) ? [] : [messageOf(unreadable(root, error))];
  }
  const problems: string[] = [];
  for (const name of names.toSorted()) {
    const folder = join(root, name);
    try {
      if ((await stat(folder)).isDirectory()) await load(folder, name.replace(/_(\d+)_$/, ":$1"), {});
    } catch (error) {
      problems.push(messageOf(unreadable(folder, error)));
    }
  }
  return problems;
}

interface Mark {
  readonly file: string;
  readonly mark: string;
}

interface Loaded {
  readonly hosts: readonly RegistryHost[];
  /** What the files and the folder looked like before they were read. */
  readonly marks: readonly Mark[];
}

async function isCurrent(loaded: Loaded): Promise<boolean> {
  const now = await Promise.all(loaded.marks.map(async ({ file }) => markOf(file)));
  return loaded.marks.every(({ mark }, i) => now[i] === mark);
}

async function markOf(file: string): Promise<string> {
  try {
    const { mtimeMs, ctimeMs, ino, size, dev } = await stat(file);
    return [mtimeMs, ctimeMs, ino, size, dev].join(" ");
  } catch (error) {
    return codeOf(error);
  }
}

/** The folder for a namespace, in the spellings containerd knows. */
async function findFolder(roots: readonly string[], namespace: string): Promise<string | undefined> {
  // A namespace comes from an image's name, so it must not walk out of the root.
  if (namespace === "" || namespace.startsWith(".") || namespace.includes("/") || namespace.includes("\0"))
    return undefined;
  const port = portOfHost(namespace);
  const spelled = port === "" ? [namespace] : [`${nameOfHost(namespace)}_${port}_`, namespace];
  for (const root of roots) {
    for (const name of [...spelled, "_default"]) {
      const folder = join(root, name);
      try {
        if ((await stat(folder)).isDirectory()) return folder;
      } catch (error) {
        if (!isAbsent(error)) throw unreadable(folder, error);
      }
    }
  }
  return undefined;
}

async function load(folder: string, namespace: string, options: DefaultHostOptions): Promise<Loaded> {
  const marks: Mark[] = [];
  const read = async (file: string): Promise<string | undefined> => {
    marks.push({ file, mark: await markOf(file) });
    return readText(file);
  };
  const file = join(folder, "hosts.toml");
  const text = await read(file);
  if (text === undefined || text === "") {
    marks.push({ file: folder, mark: await markOf(folder) });
    return { hosts: [await fromCertificates(folder, { namespace, options, read })], marks };
  }
  const { mirrors, server } = await parseHostsToml(text, file);
  const make = async (entry: HostEntry, own: boolean): Promise<RegistryHost> =>
    toHost(entry, { own, file, folder, namespace, options, read });
  const hosts = [];
  for (const entry of mirrors) hosts.push(await make(entry, false));
  hosts.push(await make(server, true));
  return { hosts, marks };
}

interface Making {
  readonly namespace: string;
  readonly options: DefaultHostOptions;
  readonly read: (file: string) => Promise<string | undefined>;
}

async function toHost(
  entry: HostEntry,
  making: Making & { readonly own: boolean; readonly file: string; readonly folder: string },
): Promise<RegistryHost> {
  const { own, file, folder, namespace, options, read } = making;
  const base = defaultHost(namespace, options);
  const at = (key: string): string => `${file}:${entry.lines[key] ?? 1}`;
  const origins: Record<string, string> = { ...(entry.address === undefined ? base.origins : {}) };
  for (const key of Object.keys(entry.lines)) origins[key] = at(key);
  if (entry.address !== undefined) origins["server"] = own ? at("server") : at("host");
  const pem = async (name: string, key: string): Promise<string> =>
    readPem(within(folder, name), { by: at(key), read });
  const ca = entry.ca === undefined ? undefined : await Promise.all(entry.ca.map(async (name) => pem(name, "ca")));
  const client =
    entry.client === undefined
      ? undefined
      : await Promise.all(
          entry.client.map(async ([cert, key]) => ({
            cert: await pem(cert, "client"),
            key: await pem(key ?? cert, "client"),
          })),
        );
  const given: TlsSettings = {
    ...(ca === undefined ? {} : { ca }),
    ...(client === undefined ? {} : { client }),
    ...(entry.skipVerify === undefined ? {} : { skipVerify: entry.skipVerify }),
  };
  const explicit = Object.keys(given).length > 0;
  const tls = { ...(entry.address === undefined ? base.tls : (options.tls ?? {})), ...given };
  const { scheme, host, path } = entry.address ?? base;
  const mixed = scheme === "http" && (explicit || options.tls !== undefined) && portOfHost(host) !== "80";
  return {
    // TLS settings for an http address mean that HTTPS is tried first, unless the port says HTTP: the peer's rule.
    scheme: mixed ? "https" : scheme,
    plainFallback: entry.address === undefined ? base.plainFallback || mixed : mixed,
    host,
    path,
    own,
    capabilities: entry.address === undefined && own ? new Set(CAPABILITIES) : entry.capabilities,
    tls,
    headers: entry.headers,
    ...(entry.dialMs === undefined ? {} : { dialMs: entry.dialMs }),
    ...(entry.proxy === undefined ? {} : { proxy: entry.proxy }),
    origins,
  };
}

/** Docker's form: every `.crt` is an authority, every `.cert` a client certificate with the `.key` of its name. */
async function fromCertificates(folder: string, making: Making): Promise<RegistryHost> {
  const base = defaultHost(making.namespace, making.options);
  const { read } = making;
  const names = (await readdir(folder)).toSorted();
  if (names.length > MAX_CERTS)
    throw classified("invalid-argument", `read ${folder}: ${names.length} files, at most ${MAX_CERTS}`);
  const pem = async (name: string): Promise<string> => readPem(join(folder, name), { by: folder, read });
  const ca = await Promise.all(names.filter((name) => name.endsWith(".crt")).map(pem));
  const client = await Promise.all(
    names
      .filter((name) => name.endsWith(".cert"))
      .map(async (name) => {
        const key = `${name.slice(0, -".cert".length)}.key`;
        return { cert: await pem(name), key: await pem(names.includes(key) ? key : name) };
      }),
  );
  if (ca.length === 0 && client.length === 0) return base;
  return {
    ...base,
    tls: { ...base.tls, ...(ca.length === 0 ? {} : { ca }), ...(client.length === 0 ? {} : { client }) },
    plainFallback: base.plainFallback,
    origins: {
      ...base.origins,
      ...(ca.length === 0 ? {} : { ca: `${folder}/*.crt` }),
      ...(client.length === 0 ? {} : { client: `${folder}/*.cert` }),
    },
  };
}

function within(folder: string, name: string): string {
  return isAbsolute(name) ? name : join(folder, name);
}

async function readPem(
  file: string,
  how: { readonly by: string; readonly read: (file: string) => Promise<string | undefined> },
): Promise<string> {
  const text = await how.read(file);
  if (text === undefined) throw classified("not-found", `read ${file}, named by ${how.by}: not found`);
  if (!text.includes("-----BEGIN ")) {
    throw classified("invalid-argument", `read ${file}, named by ${how.by}: no PEM block in it`);
  }
  return text;
}

/** A file's text, or undefined when there is none. */
async function readText(file: string): Promise<string | undefined> {
  try {
    const about = await stat(file);
    if (!about.isFile()) throw classified("invalid-argument", `read ${file}: not a regular file`);
    if (about.size > MAX_FILE) throw classified("invalid-argument", `read ${file}: more than ${MAX_FILE} bytes`);
    return await readFile(file, "utf8");
  } catch (error) {
    if (isAbsent(error)) return undefined;
    throw unreadable(file, error);
  }
}

function isAbsent(error: unknown): boolean {
  return codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR";
}

function unreadable(file: string, error: unknown): Error {
  if (error instanceof Error && error.name === "ClassifiedError") return error;
  const denied = codeOf(error) === "EACCES" || codeOf(error) === "EPERM";
  const made: ClassifiedError = classified(
    denied ? "permission-denied" : "unknown",
    `read ${file}: ${messageOf(error)}`,
    {
      cause: error,
    },
  );
  return made;
}
