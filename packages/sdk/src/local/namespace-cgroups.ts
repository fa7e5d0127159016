import { existsSync } from "node:fs";
import { readdir, rmdir } from "node:fs/promises";
import { join } from "node:path";
import { withContext } from "@stevedore/base";

const CGROUP_ROOT = "/sys/fs/cgroup";

/** Removes the cgroup of a containerd namespace from every hierarchy. Its containers must be gone. */
export async function deleteNamespaceCgroups(namespace: string): Promise<void> {
  const unified = existsSync(join(CGROUP_ROOT, "cgroup.controllers"));
  const hierarchies = unified ? [""] : await readdir(CGROUP_ROOT);
  for (const hierarchy of hierarchies) {
    const folder = join(CGROUP_ROOT, hierarchy, namespace);
    if (!existsSync(folder)) continue;
    try {
      await rmdir(folder);
    } catch (error) {
      throw withContext(`delete cgroup ${folder}`, error);
    }
  }
}
