import { open, readFile } from "node:fs/promises";
import { join, normalize } from "node:path";
import { isJsonObject, type JsonObject, type JsonValue, parseJson } from "@stevedore/oci/json-lossless";
import { findExecutable, runCommand } from "@stevedore/os/spawn";
import { fileIdentity, statPath } from "@stevedore/os/stat";
import { DEFAULT_PATH, DEFAULT_RUNTIME, type RuntimeSettings } from "./client.ts";

/** What a container's state folder says of it, of a runtime that is known to keep it in runc's way. */
export interface KnownState {
  /** The state folder of the container. */
  readonly folder: string;
  readonly pid: number;
  /** With the pid, the identity of init: clock ticks since boot at its start. */
  readonly startTicks: bigint;
  /** Folders of its cgroup, one per hierarchy. */
  readonly cgroups: readonly string[];
  /** Where its freezer is told, for v1 and v2. */
  readonly freezerFile: string;
  /** Whether its pid namespace is its own, so that nothing of it is left when init has ended. */
  readonly privatePids: boolean;
  /** Kinds of hooks it has. */
  readonly hooks: ReadonlySet<string>;
}

/** The first line of `runc --version`. The state folder has been the same from 1.0 to 1.4. */
const RUNC_VERSION = /^runc version 1\.[0-4]\./;

/** An ELF file and no script, which may do anything before and after it calls the runtime. */
const ELF_MAGIC = [0x7f, 0x45, 0x4c, 0x46] as const;

const VERSION_LIMIT_MS = 5_000;

/** Whether a binary is runc, by device, inode, size and time of its file. */
const answers = new Map<string, Promise<boolean>>();

/** Binaries remembered; a shim meets one or two. */
const MAX_REMEMBERED = 16;

/**
 * The state of a container that has just been created, if it is certain that runc itself made it: its binary is no script, says
 * that it is runc, and the waiting init still runs that very file; nothing in its state needs more at start or delete than
 * {@link KnownState} tells. Undefined in every other case: the runtime is called then. Never rejects.
 */
export async function knownState(settings: RuntimeSettings, id: string, pid: number): Promise<KnownState | undefined> {
  try {
    if (settings.systemdCgroup) return undefined;
    const folder = join(settings.root, id);
    const [known, text] = await Promise.all([isRuncs(settings, pid), readFile(join(folder, "state.json"), "utf8")]);
    const state = parseJson(text);
    return known && isJsonObject(state) ? readState(state, { folder, pid }) : undefined;
  } catch {
    return undefined;
  }
}

/** Asks a runtime what it is ahead of its first container. */
export async function meetRuntime(settings: Pick<RuntimeSettings, "command" | "env">): Promise<void> {
  try {
    await isRunc(pathOf(settings), settings.env);
  } catch {
    // There is none: the first container will say so.
  }
}

/** A wrapper that ends in runc's exec is seen here: init runs another file then, or a copy of another size. */
async function isRuncs(settings: RuntimeSettings, pid: number): Promise<boolean> {
  const path = pathOf(settings);
  if (statPath(`/proc/${pid}/exe`, { follow: true }).size !== statPath(path, { follow: true }).size) return false;
  return isRunc(path, settings.env);
}

function pathOf({ command, env }: Pick<RuntimeSettings, "command" | "env">): string {
  return findExecutable(command === "" ? DEFAULT_RUNTIME : command, env["PATH"] ?? DEFAULT_PATH);
}

function isRunc(path: string, env: Readonly<Record<string, string>>): Promise<boolean> {
  const found = statPath(path, { follow: true });
  const key = `${fileIdentity(found)}:${found.size}:${found.ctime.seconds}.${found.ctime.nanoseconds}`;
  const known = answers.get(key);
  if (known !== undefined) return known;
  if (answers.size >= MAX_REMEMBERED) answers.clear();
  const answer = ask(path, env).catch(() => false);
  answers.set(key, answer);
  return answer;
}

async function ask(path: string, env: Readonly<Record<string, string>>): Promise<boolean> {
  const magic = new Uint8Array(ELF_MAGIC.length);
  await using file = await open(path, "r");
  await file.read(magic, 0, magic.length, 0);
  if (!ELF_MAGIC.every((byte, at) => magic[at] === byte)) return false;
  const ran = await runCommand([path, "--version"], { env, signal: AbortSignal.timeout(VERSION_LIMIT_MS) });
  return ran.code === 0 && RUNC_VERSION.test(ran.text());
}

function readState(state: JsonObject, at: { readonly folder: string; readonly pid: number }): KnownState | undefined {
  const { config, init_process_start: startTicks } = state;
  if (
    typeof startTicks !== "number" ||
    state["init_process_pid"] !== at.pid ||
    state["rootless"] === true ||
    !isJsonObject(config)
  )
    return undefined;
  // What only the runtime knows how to take back.
  if ((state["intel_rdt_path"] ?? "") !== "" || !isEmpty(config["intelRdt"]) || !isEmpty(config["netDevices"])) {
    return undefined;
  }
  if (isJsonObject(config["cgroups"]) && config["cgroups"]["Systemd"] === true) return undefined;
  const cgroups = readCgroups(state["cgroup_paths"]);
  if (cgroups === undefined) return undefined;
  const freezer = cgroups.get("freezer");
  const unified = cgroups.get("");
  if (freezer === undefined && unified === undefined) return undefined;
  return {
    ...at,
    startTicks: BigInt(startTicks),
    cgroups: [...cgroups.values()],
    freezerFile: freezer === undefined ? join(unified ?? "", "cgroup.freeze") : join(freezer, "freezer.state"),
    privatePids: hasPrivatePids(config["namespaces"]),
    hooks: new Set(Object.entries(asObject(config["Hooks"])).flatMap(([kind, list]) => (isEmpty(list) ? [] : [kind]))),
  };
}

function readCgroups(paths: JsonValue | undefined): ReadonlyMap<string, string> | undefined {
  const found = new Map<string, string>();
  for (const [name, path] of Object.entries(asObject(paths))) {
    if (typeof path !== "string" || normalize(path) !== path || !path.startsWith("/sys/fs/cgroup/")) return undefined;
    found.set(name, path);
  }
  return found;
}

function hasPrivatePids(namespaces: JsonValue | undefined): boolean {
  return (
    Array.isArray(namespaces) &&
    namespaces.some((one) => isJsonObject(one) && one["type"] === "NEWPID" && (one["path"] ?? "") === "")
  );
}

function isEmpty(value: JsonValue | undefined): boolean {
  if (value === undefined || value === null) return true;
  return Array.isArray(value) ? value.length === 0 : isJsonObject(value) && Object.keys(value).length === 0;
}

function asObject(value: JsonValue | undefined): JsonObject {
  return isJsonObject(value) ? value : {};
}
