import { appendFile, readFile } from "node:fs/promises";
import { join } from "node:path";
import { messageOf } from "@stevedore/base/errors";
import type { Logger } from "@stevedore/base/log";
import { cgroupsPathOf } from "@stevedore/oci/cgroups-path";
import {
  type Cgroup,
  cgroupAt,
  cgroupExists,
  cgroupProcesses,
  deleteEmptyCgroup,
  killCgroup,
} from "@stevedore/os/cgroup";
import { BUNDLE } from "./bundle.ts";
import type { RuntimeClient } from "./runc/client.ts";
import { isMissingContainer } from "./runc/errors.ts";

/** What is to be removed when the runtime did not do so at the first call. */
export interface Removal {
  readonly id: string;
  readonly bundle: string;
  readonly runtime: RuntimeClient;
  /** Where its processes are, when that is known; else the spec says. */
  readonly cgroup: Cgroup | undefined;
  readonly log: Logger;
}

/** How long one call of a runtime that is to remove a container may take, milliseconds. */
const CALL_MS = 10_000;

/** How long killed processes may take to be gone. */
const KILLED_MS = 2_000;
const KILLED_POLL_MS = 20;

/** A file beside the bundles in the daemon's state folder: what could not be removed, a line of JSON each. */
const ABANDONED = "abandoned.jsonl";

/**
 * Removes a container that its runtime fails to remove: by force, then with its cgroup emptied by us. It always comes back: what
 * the runtime keeps even then is written down and abandoned, so that a container can be got rid of whatever its runtime does.
 */
export async function removeByForce(removal: Removal): Promise<void> {
  const { id, runtime, log } = removal;
  const cgroup = removal.cgroup ?? (await cgroupOf(removal));
  const force = async (): Promise<string | undefined> => {
    try {
      await runtime.delete(id, true, AbortSignal.timeout(CALL_MS));
      return undefined;
    } catch (error) {
      return isMissingContainer(error) ? undefined : messageOf(error);
    }
  };
  let why = await force();
  if (why !== undefined || (cgroup !== undefined && !isEmpty(cgroup))) {
    if (cgroup !== undefined) await emptyCgroup(cgroup, log);
    if (why !== undefined) why = await force();
  }
  if (why === undefined) {
    // A runtime that was killed in its create knows nothing of the cgroup it has made.
    await removeLeftCgroup(removal, cgroup);
    return;
  }
  log.error("the runtime does not remove a container: abandoned", { id, error: why });
  const line = { at: new Date().toISOString(), id, bundle: removal.bundle, what: "the runtime's state", why };
  await appendFile(join(removal.bundle, "../../..", ABANDONED), `${JSON.stringify(line)}\n`, { mode: 0o600 }).catch(
    (error: unknown) => log.error("writing down what was abandoned", { id, error: messageOf(error) }),
  );
}

/**
 * Removes what a runtime that was killed in its create has left, if that is ours: a container of that id made from another bundle
 * is somebody else's. Never rejects.
 *
 * @param why what the create failed with
 */
export async function removeHalfMade(removal: Removal, why: unknown): Promise<void> {
  const { id, runtime, bundle, log } = removal;
  try {
    const found = await runtime.state(id).catch((error: unknown) => {
      if (isMissingContainer(error)) return undefined;
      throw error;
    });
    if (found?.bundle === bundle) await removeByForce(removal);
    // Refused because the id was there, it has made nothing; who has the id may be making its container now.
    if (found !== undefined || messageOf(why).includes("already exists")) return;
    // A runtime makes a folder before it knows the container: one that is left there would refuse the id for ever.
    await runtime.delete(id, true, AbortSignal.timeout(CALL_MS)).catch(() => undefined);
    await removeLeftCgroup(removal, await cgroupOf(removal));
  } catch (error) {
    log.warn("removing what a failed create has left", { id, error: messageOf(error) });
  }
}

/** What is in it, after the runtime has forgotten the container, is on its way out, or somebody else's. */
async function removeLeftCgroup({ id, log }: Removal, cgroup: Cgroup | undefined): Promise<void> {
  try {
    if (cgroup === undefined || !cgroupExists(cgroup)) return;
    if (!(await deleteEmptyCgroup(cgroup, KILLED_MS))) log.warn("a cgroup that is left has processes", { id });
  } catch (error) {
    log.warn("removing a cgroup that is left", { id, error: messageOf(error) });
  }
}

async function cgroupOf({ bundle }: Removal): Promise<Cgroup | undefined> {
  try {
    const path = cgroupsPathOf(await readFile(join(bundle, BUNDLE.config), "utf8"));
    return path === undefined ? undefined : cgroupAt(path);
  } catch {
    return undefined; // there is none on this machine, or no spec any more
  }
}

function isEmpty(cgroup: Cgroup): boolean {
  try {
    return !cgroupExists(cgroup) || cgroupProcesses(cgroup, { recursive: true }).length === 0;
  } catch {
    return true; // removed meanwhile
  }
}

async function emptyCgroup(cgroup: Cgroup, log: Logger): Promise<void> {
  const end = performance.now() + KILLED_MS;
  while (!isEmpty(cgroup) && performance.now() < end) {
    try {
      killCgroup(cgroup);
    } catch (error) {
      log.warn("killing what is left in a cgroup", { error: messageOf(error) });
      return;
    }
    await Bun.sleep(KILLED_POLL_MS);
  }
}
