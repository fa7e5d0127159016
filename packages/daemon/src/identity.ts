/** Who this daemon is: an id that stays over restarts, its process, its pid namespace. */
import { randomUUID } from "node:crypto";
import { mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { ServerIdentity } from "@stevedore/services/introspection";

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** Reads the daemon's id below `root`, making it at the first call; containerd keeps it in the same place. */
export async function daemonIdentity(root: string): Promise<ServerIdentity> {
  const folder = join(root, "io.containerd.grpc.v1.introspection");
  const path = join(folder, "uuid");
  let uuid = await readFile(path, "utf8").catch(() => "");
  if (!UUID.test(uuid)) {
    uuid = randomUUID();
    await mkdir(folder, { recursive: true, mode: 0o700 });
    await writeFile(path, uuid, { mode: 0o600 });
  }
  const { ino } = await stat("/proc/self/ns/pid", { bigint: true });
  return { uuid, pid: process.pid, pidNamespace: ino };
}
