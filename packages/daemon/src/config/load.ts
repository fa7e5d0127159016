/** Reads configuration files: TOML of versions 1 to 4, imports, conf.d; strict about keys, with positions. */
import { readFile } from "node:fs/promises";
import { dirname, isAbsolute, join } from "node:path";
import { classified, messageOf } from "@stevedore/base";
import { parse, TomlError } from "smol-toml";
import { findProblems, isOpen, refuse } from "./check.ts";
import { OPEN_PATHS, optionalTopLevel, pluginDefaults, topLevelDefaults } from "./defaults.ts";
import { locateKey } from "./locate.ts";
import { migrate, versionOf } from "./migrate.ts";
import { CONFIG_VERSION, isTable, type TomlTable, type TomlValue } from "./types.ts";

/** Largest configuration file that is read: 1 MiB, far above any real one. */
const MAX_FILE_SIZE = 1024 * 1024;

/** Files one configuration may import, so that imports of imports end. */
const MAX_IMPORTS = 256;

export interface LoadedConfig {
  /** The whole configuration in the shape of version 4, defaults filled in. */
  readonly config: TomlTable;
  /** Full names of plugin sections that were given in files, with the file. */
  readonly given: ReadonlyMap<string, string>;
  /** Things to tell the administrator at start. */
  readonly warnings: readonly string[];
}

/** Parses one file's text. @throws invalid-argument with file, line and column */
export function parseToml(text: string, file: string): TomlTable {
  try {
    const table: unknown = parse(text);
    if (isTable(table)) return table;
    throw classified("invalid-argument", `load config ${file}: not a table`);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const reason = error.message.split("\n")[0] ?? "";
    const curly = /[\u201c\u201d\u2018\u2019]/.test(text.split("\n")[error.line - 1] ?? "");
    const hint = curly ? '; the line has typographic quotes, use " instead' : "";
    throw classified(
      "invalid-argument",
      `load config ${file}: line ${error.line}, column ${error.column}: ${reason}${hint}: invalid argument`,
      { cause: error },
    );
  }
}

async function readText(file: string): Promise<string> {
  const bytes = await readFile(file);
  if (bytes.byteLength > MAX_FILE_SIZE) {
    throw classified(
      "invalid-argument",
      `load config ${file}: ${bytes.byteLength} bytes are more than ${MAX_FILE_SIZE}`,
    );
  }
  return bytes.toString("utf8");
}

interface FileConfig {
  readonly file: string;
  readonly config: TomlTable;
  readonly notes: readonly string[];
}

/**
 * Reads one file and brings it into the newest shape.
 * @throws invalid-argument for TOML that does not parse, unknown keys and wrong types, each with its position
 */
async function readOne(file: string): Promise<FileConfig> {
  const text = await readText(file);
  const table = parseToml(text, file);
  const version = versionOf(table);
  if (!Number.isInteger(version) || version < 1 || version > CONFIG_VERSION) {
    throw classified(
      "invalid-argument",
      `load config ${file}: expected containerd config version equal to or less than \`${CONFIG_VERSION}\`, got \`${version}\`: invalid argument`,
    );
  }
  const { config, notes } = migrate(table);
  const schema = { ...topLevelDefaults(), ...optionalTopLevel(), plugins: pluginDefaults() };
  const problems = findProblems(config, schema, (path) => isOpen(path, OPEN_PATHS));
  if (problems.length > 0) {
    refuse(
      problems.map(({ path, message }) => {
        const at = locateKey(text, file, path);
        return `${at.file}:${at.line}:${at.column}: ${message}`;
      }),
    );
  }
  return { file, config, notes: [...notes, ...withoutEffect(config)].map((note) => `${file}: ${note}`) };
}

/** Keys that containerd 2.3.4 has and that change nothing here, with the reason. */
const WITHOUT_EFFECT: readonly { readonly path: readonly string[]; readonly reason: string }[] = [
  {
    path: ["plugins", "io.containerd.server.v1.grpc-tcp", "tls_common_name"],
    reason: "certificates are looked up by name on Windows only",
  },
  ...["blockio_config_file", "rdt_config_file"].map((key) => ({
    path: ["plugins", "io.containerd.service.v1.tasks-service", key],
    reason: "its classes are for pods, and this version has no CRI",
  })),
];

function withoutEffect(config: TomlTable): string[] {
  return WITHOUT_EFFECT.filter(({ path }) => {
    let value: TomlValue | undefined = config;
    for (const key of path) value = isTable(value) ? value[key] : undefined;
    return value !== undefined && value !== false && value !== "";
  }).map(({ path, reason }) => `key ${JSON.stringify(path.join("."))} has no effect: ${reason}`);
}

/** The files an `imports` list names, in order; a pattern without match names none. */
async function importedFiles(imports: TomlValue | undefined, from: string): Promise<string[]> {
  const files: string[] = [];
  if (!Array.isArray(imports)) return files;
  for (const entry of imports) {
    if (typeof entry !== "string") continue;
    const path = isAbsolute(entry) ? entry : join(dirname(from), entry);
    if (!/[*?[{]/.test(path)) {
      files.push(path);
      continue;
    }
    const found: string[] = [];
    try {
      for await (const match of new Bun.Glob(path).scan({ absolute: true })) found.push(match);
    } catch (error) {
      // A folder that does not exist matches nothing.
      if (!(error instanceof Error && "code" in error && error.code === "ENOENT")) throw error;
    }
    files.push(...found.sort());
  }
  return files;
}

/**
 * Merges as the peer does: tables by key, lists by appending what is new (`imports` and lists of plugins), other values
 * by replacing.
 */
export function mergeConfig(into: TomlTable, from: TomlTable): TomlTable {
  const merged: TomlTable = { ...into };
  for (const [key, value] of Object.entries(from)) {
    const before = merged[key];
    if (isTable(before) && isTable(value)) merged[key] = mergeConfig(before, value);
    else if (Array.isArray(before) && Array.isArray(value) && APPENDED_LISTS.has(key)) {
      merged[key] = [...before, ...value.filter((item) => !before.includes(item))];
    } else merged[key] = value;
  }
  return merged;
}

const APPENDED_LISTS: ReadonlySet<string> = new Set(["imports", "disabled_plugins", "required_plugins"]);

/**
 * Loads the configuration at `file` with all it imports.
 * @param options.optional a file that does not exist is an empty one (the default path)
 * @throws invalid-argument; not-found when a file that was named is missing
 */
export async function loadConfig(file: string, options: { readonly optional: boolean }): Promise<LoadedConfig> {
  const seen = new Set<string>();
  const given = new Map<string, string>();
  const warnings: string[] = [];
  let merged: TomlTable = {};
  const queue = [file];
  for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
    if (seen.has(next)) continue;
    if (seen.size >= MAX_IMPORTS)
      throw classified("invalid-argument", `load config ${file}: more than ${MAX_IMPORTS} imports`);
    seen.add(next);
    let one: FileConfig;
    try {
      one = await readOne(next);
    } catch (error) {
      const missing = error instanceof Error && "code" in error && error.code === "ENOENT";
      if (!missing) throw error;
      if (next === file && options.optional) {
        queue.push(...(await importedFiles(topLevelDefaults()["imports"], file)));
        continue;
      }
      throw classified("not-found", `load config ${next}: ${messageOf(error)}: not found`, { cause: error });
    }
    warnings.push(...one.notes);
    for (const name of Object.keys(isTable(one.config["plugins"]) ? one.config["plugins"] : {})) given.set(name, next);
    merged = mergeConfig(merged, one.config);
    const imports = one.config["imports"] ?? (next === file ? topLevelDefaults()["imports"] : undefined);
    queue.push(...(await importedFiles(imports, next)));
  }
  return { config: withDefaults(merged), given, warnings };
}

/** Fills in every default. Lists given by the user replace the default's. */
export function withDefaults(config: TomlTable): TomlTable {
  const filled = fill(topLevelDefaults(), config);
  const plugins = isTable(config["plugins"]) ? config["plugins"] : {};
  filled["plugins"] = fill(pluginDefaults(), plugins);
  return filled;
}

function fill(defaults: TomlTable, given: TomlTable): TomlTable {
  const filled: TomlTable = { ...defaults };
  for (const [key, value] of Object.entries(given)) {
    const before = filled[key];
    filled[key] = isTable(before) && isTable(value) ? fill(before, value) : value;
  }
  return filled;
}
