import { access, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { classified, messageOf } from "@stevedore/base/errors";

const CGROUP_ROOT = "/sys/fs/cgroup";

/**
 * Moves a process into an existing cgroup, named from the hierarchy's root: the one of v2, or of each v1 controller that
 * has it.
 *
 * @throws not-found when no hierarchy has it.
 */
export async function joinCgroup(name: string, pid: number): Promise<void> {
  const unified = await access(join(CGROUP_ROOT, "cgroup.controllers")).then(
    () => true,
    () => false,
  );
  const roots = unified ? [CGROUP_ROOT] : (await readdir(CGROUP_ROOT)).map((entry) => join(CGROUP_ROOT, entry));
  let joined = 0;
  for (const root of roots) {
    const file = join(root, name, "cgroup.procs");
    const there = await readFile(file).then(
      () => true,
      () => false,
    );
    if (!there) continue;
    await writeFile(file, String(pid)).catch((cause: unknown) => {
      throw classified("unknown", `failed to join cgroup ${name}: ${messageOf(cause)}`, { cause });
    });
    joined++;
  }
  if (joined === 0) throw classified("not-found", `failed to load cgroup ${name}: cgroup deleted`);
}
