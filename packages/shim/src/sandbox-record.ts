import { constants, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { momentIn, momentText } from "@stevedore/base/moment";
import { isJsonObject, parseJson } from "@stevedore/oci/json-lossless";

/** The file in a sandbox's bundle that outlives its shim; the daemon looks for it to know that there is one to restore. */
export const SANDBOX_RECORD = "sandbox.json";

const SYNCED_WRITE = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_SYNC;

/** What a shim that takes a sandbox over must know of it. */
export interface SandboxRecord {
  readonly createdAt: Date;
  readonly phase: "created" | "ready" | "stopped";
  /** Set with the phase `stopped`. */
  readonly exitedAt: Date | undefined;
  readonly netnsPath: string;
  readonly annotations: Readonly<Record<string, string>>;
  /** Whether its rootfs is mounted in the bundle. */
  readonly mounted: boolean;
}

/** Writes the record by rename, synced: it is there when anybody learns of the change. */
export async function writeSandboxRecord(bundle: string, record: SandboxRecord): Promise<void> {
  const { createdAt, exitedAt, ...plain } = record;
  const text = JSON.stringify({
    ...plain,
    createdAt: momentText(createdAt),
    ...(exitedAt === undefined ? {} : { exitedAt: momentText(exitedAt) }),
  });
  const path = join(bundle, SANDBOX_RECORD);
  await writeFile(`${path}.tmp`, text, { flag: SYNCED_WRITE, mode: 0o600 });
  await rename(`${path}.tmp`, path);
}

/** The record in a bundle; undefined when there is none, or it is damaged: then its sandbox is a new one. */
export async function readSandboxRecord(bundle: string): Promise<SandboxRecord | undefined> {
  try {
    const found = parseJson(await readFile(join(bundle, SANDBOX_RECORD), "utf8"));
    if (!isJsonObject(found)) return undefined;
    const { createdAt, exitedAt, phase, netnsPath, annotations, mounted } = found;
    if (typeof createdAt !== "string" || (phase !== "created" && phase !== "ready" && phase !== "stopped")) {
      return undefined;
    }
    const notes = isJsonObject(annotations) ? Object.entries(annotations) : [];
    return {
      createdAt: momentIn(createdAt),
      phase,
      exitedAt: typeof exitedAt === "string" ? momentIn(exitedAt) : undefined,
      netnsPath: typeof netnsPath === "string" ? netnsPath : "",
      annotations: Object.fromEntries(
        notes.flatMap(([key, value]) => (typeof value === "string" ? [[key, value]] : [])),
      ),
      mounted: mounted === true,
    };
  } catch {
    return undefined;
  }
}
