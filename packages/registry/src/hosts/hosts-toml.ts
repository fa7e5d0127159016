import { type ClassifiedError, classified, messageOf, parseDuration } from "@stevedore/base";
import { linesOfKeys, pathKey } from "./toml-lines.ts";
import { CAPABILITIES, type Capability } from "./types.ts";

/** One endpoint as a hosts.toml writes it; files are named, not read. */
export interface HostEntry {
  /** Absent for the part of a file that names no server: the namespace's own registry. */
  readonly address?: {
    readonly scheme: "http" | "https";
    readonly host: string;
    readonly path: string;
  };
  readonly capabilities: ReadonlySet<Capability>;
  /** Paths; relative ones are of the file's folder. */
  readonly ca?: readonly string[];
  /** Paths of certificate and key; no key means that the certificate's file holds it. */
  readonly client?: readonly (readonly [cert: string, key?: string])[];
  readonly skipVerify?: boolean;
  readonly headers: readonly (readonly [name: string, value: string])[];
  readonly dialMs?: number;
  /** The proxy for this host; newer containerds have the key. */
  readonly proxy?: URL;
  /** Line of each key that is given, by its name. */
  readonly lines: Readonly<Record<string, number>>;
}

/** What a hosts.toml says: mirrors in the order of the file, then the registry itself. */
export interface HostsFile {
  readonly mirrors: readonly HostEntry[];
  readonly server: HostEntry;
}

/** Hosts of one file: far more than anybody lists. */
const MAX_HOSTS = 64;

const ENTRY_KEYS: ReadonlySet<string> = new Set([
  "capabilities",
  "ca",
  "client",
  "skip_verify",
  "header",
  "override_path",
  "dial_timeout",
  "proxy",
]);
const FILE_KEYS: ReadonlySet<string> = new Set([...ENTRY_KEYS, "server", "host"]);

const HEADER_NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;

type Table = Readonly<Record<string, unknown>>;

/**
 * Reads a hosts.toml. Unlike the peer, which logs and goes on without the file, what is wrong with it is an error: a
 * typing error must not silently send a pull elsewhere.
 *
 * @param file names it in errors
 * @throws invalid-argument with file, line and key
 */
export async function parseHostsToml(text: string, file: string): Promise<HostsFile> {
  const toml = await import("smol-toml");
  let document: unknown;
  try {
    document = toml.parse(text);
  } catch (error) {
    const at = error instanceof toml.TomlError ? `line ${error.line}, column ${error.column}: ` : "";
    const [reason = ""] = messageOf(error).split("\n");
    throw classified("invalid-argument", `read ${file}: ${at}${reason}`);
  }
  return new Reader(file, linesOfKeys(text)).file(document);
}

class Reader {
  readonly #file: string;
  readonly #lines: ReadonlyMap<string, number>;

  constructor(file: string, lines: ReadonlyMap<string, number>) {
    this.#file = file;
    this.#lines = lines;
  }

  file(document: unknown): HostsFile {
    const table = this.#table(document, []);
    this.#refuseUnknown(table, FILE_KEYS, []);
    const { host, server } = table;
    const hosts = host === undefined ? {} : this.#table(host, ["host"]);
    const urls = Object.keys(hosts).toSorted((a, b) => this.#line(["host", a]) - this.#line(["host", b]));
    if (urls.length > MAX_HOSTS) throw this.#wrong(["host"], `${urls.length} hosts, at most ${MAX_HOSTS}`);
    const mirrors = urls.map((url) => {
      const path = ["host", url];
      const entry = this.#table(hosts[url], path);
      this.#refuseUnknown(entry, ENTRY_KEYS, path);
      return this.#entry(entry, path, url);
    });
    if (server !== undefined && typeof server !== "string") throw this.#wrong(["server"], "want a string");
    return { mirrors, server: this.#entry(table, [], server ?? "") };
  }

  #entry(table: Table, path: readonly string[], url: string): HostEntry {
    const override = this.#boolean(table, [...path, "override_path"]) ?? false;
    const address = url === "" ? undefined : this.#address(url, path.length === 0 ? ["server"] : path, override);
    const ca = this.#strings(table["ca"], [...path, "ca"]);
    const client = this.#pairs(table["client"], [...path, "client"]);
    const skipVerify = this.#boolean(table, [...path, "skip_verify"]);
    const dialMs = this.#duration(table["dial_timeout"], [...path, "dial_timeout"]);
    const proxy = this.#proxy(table["proxy"], [...path, "proxy"]);
    const lines: Record<string, number> = {};
    for (const key of Object.keys(table)) {
      if (key !== "host") lines[key] = this.#line([...path, key]);
    }
    if (path.length > 0) lines["host"] = this.#line(path);
    return {
      ...(address === undefined ? {} : { address }),
      capabilities: this.#capabilities(table["capabilities"], [...path, "capabilities"]),
      ...(ca === undefined ? {} : { ca }),
      ...(client === undefined ? {} : { client }),
      ...(skipVerify === undefined ? {} : { skipVerify }),
      headers: this.#headers(table["header"], [...path, "header"]),
      ...(dialMs === undefined ? {} : { dialMs }),
      ...(proxy === undefined ? {} : { proxy }),
      lines,
    };
  }

  #address(url: string, path: readonly string[], override: boolean): NonNullable<HostEntry["address"]> {
    // The peer puts https:// in front of what does not start with "http"; a name like httpd.example is one of those here.
    const full = /^https?:\/\//i.test(url) ? url : `https://${url}`;
    const parsed = url.includes("://") && full !== url ? null : URL.parse(full);
    if (parsed === null || parsed.hostname === "") throw this.#wrong(path, "want a URL of http or https");
    if (parsed.username !== "" || parsed.password !== "") {
      throw this.#wrong(path, "a URL here holds no user; give credentials in a docker config or by flags");
    }
    if (parsed.search !== "" || parsed.hash !== "") throw this.#wrong(path, "a URL here has no query and no fragment");
    const clean = parsed.pathname.replace(/\/{2,}/g, "/").replace(/\/$/, "");
    const root = override || clean.endsWith("/v2") ? clean : `${clean}/v2`;
    // URL drops a scheme's own port, but whether it was written decides whether the protocol is open.
    const written = /^https?:\/\/[^/]*:(\d+)(?:\/|$)/i.exec(full)?.[1];
    const host = written === undefined ? parsed.host : `${parsed.hostname}:${Number(written)}`;
    return { scheme: parsed.protocol === "http:" ? "http" : "https", host, path: root };
  }

  #capabilities(value: unknown, path: readonly string[]): ReadonlySet<Capability> {
    const names = this.#strings(value, path, false) ?? [];
    // None given means all, as with the peer.
    if (names.length === 0) return new Set(CAPABILITIES);
    const found = new Set<Capability>();
    for (const name of names) {
      const known = CAPABILITIES.find((capability) => capability === name.toLowerCase());
      if (known === undefined) {
        throw this.#wrong(path, `unknown capability ${JSON.stringify(name)}, want ${CAPABILITIES.join(", ")}`);
      }
      found.add(known);
    }
    return found;
  }

  #headers(value: unknown, path: readonly string[]): readonly (readonly [string, string])[] {
    if (value === undefined) return [];
    return Object.entries(this.#table(value, path)).flatMap(([name, given]) => {
      const key = [...path, name];
      if (!HEADER_NAME.test(name)) throw this.#wrong(key, "not a header's name");
      return (this.#strings(given, key) ?? []).map((text): readonly [string, string] => {
        if (!/^[\t\x20-\x7e\x80-\xff]*$/.test(text))
          throw this.#wrong(key, "its value has characters that cannot be sent");
        return [name, text];
      });
    });
  }

  #pairs(value: unknown, path: readonly string[]): HostEntry["client"] {
    if (value === undefined) return undefined;
    if (typeof value === "string") return [[value]];
    if (!Array.isArray(value)) throw this.#wrong(path, "want a string, strings, or pairs of strings");
    const items: readonly unknown[] = value;
    return items.map((item): readonly [string, string?] => {
      if (typeof item === "string") return [item];
      const parts: readonly unknown[] = Array.isArray(item) ? item : [];
      const [cert, key] = parts;
      // An empty key means, with the peer too, that the certificate's file holds it.
      if (parts.length === 2 && typeof cert === "string" && typeof key === "string")
        return key === "" ? [cert] : [cert, key];
      throw this.#wrong(path, "want pairs of a certificate's and its key's file");
    });
  }

  #strings(value: unknown, path: readonly string[], single = true): readonly string[] | undefined {
    if (value === undefined) return undefined;
    if (typeof value === "string" && single) return [value];
    if (!Array.isArray(value)) throw this.#wrong(path, single ? "want a string or strings" : "want strings");
    const items: readonly unknown[] = value;
    return items.map((item) => {
      if (typeof item !== "string") throw this.#wrong(path, "want strings");
      return item;
    });
  }

  #boolean(table: Table, path: readonly string[]): boolean | undefined {
    const value = table[path.at(-1) ?? ""];
    if (value === undefined || typeof value === "boolean") return value;
    throw this.#wrong(path, "want true or false");
  }

  #proxy(value: unknown, path: readonly string[]): URL | undefined {
    if (value === undefined || value === "") return undefined;
    const url = typeof value === "string" ? URL.parse(value) : null;
    const known =
      url !== null && ["http:", "https:", "socks5:", "socks5h:"].includes(url.protocol) && url.hostname !== "";
    if (!known || (url.pathname !== "/" && url.pathname !== "") || url.search !== "" || url.hash !== "") {
      throw this.#wrong(path, "want a URL of http, https, socks5 or socks5h without path");
    }
    return url;
  }

  #duration(value: unknown, path: readonly string[]): number | undefined {
    if (value === undefined || value === "") return undefined;
    const ms = typeof value === "string" ? parseDuration(value) : undefined;
    if (ms === undefined) throw this.#wrong(path, 'want a duration such as "5s"');
    return ms;
  }

  #table(value: unknown, path: readonly string[]): Table {
    if (isTable(value)) return value;
    throw this.#wrong(path, "want a table");
  }

  #refuseUnknown(table: Table, known: ReadonlySet<string>, path: readonly string[]): void {
    for (const key of Object.keys(table)) {
      if (!known.has(key)) throw this.#wrong([...path, key], `unknown key, want one of ${[...known].join(", ")}`);
    }
  }

  #line(path: readonly string[]): number {
    for (let depth = path.length; depth > 0; depth--) {
      const line = this.#lines.get(pathKey(path.slice(0, depth)));
      if (line !== undefined) return line;
    }
    return 1;
  }

  #wrong(path: readonly string[], what: string): ClassifiedError {
    const key = path.map((part) => (/^[A-Za-z0-9_-]+$/.test(part) ? part : JSON.stringify(part))).join(".");
    return classified("invalid-argument", `read ${this.#file}: line ${this.#line(path)}: key ${key}: ${what}`);
  }
}

function isTable(value: unknown): value is Table {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date);
}
