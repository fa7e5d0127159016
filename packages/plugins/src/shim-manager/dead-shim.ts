import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { classified, isErrorClass, type Logger, messageOf } from "@stevedore/base";
import { cgroupsPathOf } from "@stevedore/oci/cgroups-path";
import { untilCallsEnded } from "@stevedore/os/calls";
import { cgroupAt, cgroupExists, deleteEmptyCgroup } from "@stevedore/os/cgroup";
import { BUNDLE_FILE, type Bundle } from "./bundle.ts";
import type { DeadExit, ShimBinary } from "./shim-binary.ts";

/** What runc is given as its log by every shim that follows containerd's: it names a bundle in a call's arguments. */
const RUNTIME_LOG = "log.json";
/** How long a runtime that a dead shim called may take to end, milliseconds; it is killed then. */
const RUNTIME_MS = 10_000;
/** Times that the binary of a dead shim is asked again to clean up. */
const TRIES = 3;
/** How long processes that were killed may take to leave their cgroup. */
const LEAVING_MS = 2_000;

/**
 * Has a shim's binary clean up after a shim that is gone or does not know its task, and sees to what such a clean-up leaves: a runtime
 * that is cut off in the middle of a create goes on without its shim, and knows nothing of the cgroup it has made.
 *
 * @param limitMs milliseconds for the binary's own work
 * @throws deadline-exceeded when it took longer; unknown with what it printed. The cgroup is gone by then, too
 */
export async function cleanUpDead(
  binary: Pick<ShimBinary, "delete">,
  bundle: Pick<Bundle, "id" | "path">,
  { limitMs, log }: { readonly limitMs: number; readonly log: Logger },
): Promise<DeadExit> {
  const { id, path } = bundle;
  const killed = await untilCallsEnded(join(path, RUNTIME_LOG), RUNTIME_MS);
  if (killed.length > 0) log.warn("a runtime that a dead shim called did not end: killed", { id, pids: killed });
  try {
    return await deleteInTime(binary, bundle, limitMs);
  } finally {
    await removeLeftCgroup(bundle, log);
  }
}

async function deleteInTime(
  binary: Pick<ShimBinary, "delete">,
  { id }: Pick<Bundle, "id">,
  limitMs: number,
): Promise<DeadExit> {
  const signal = AbortSignal.timeout(limitMs);
  try {
    return await binary.delete(signal);
  } catch (error) {
    if (!signal.aborted) throw error;
    throw classified("deadline-exceeded", `clean up after the shim of ${id}: more than ${limitMs} ms`, {
      cause: error,
    });
  }
}

/**
 * Goes on with a clean-up that took too long, each try with twice the time of the one before: nobody else comes back to a container that has been
 * given up, and on a machine with much to do the start of the binary alone may take longer than the first.
 *
 * @throws what {@link cleanUpDead} throws in the last try
 */
export async function cleanUpLater(
  binary: Pick<ShimBinary, "delete">,
  bundle: Pick<Bundle, "id" | "path">,
  { limitMs, log, signal }: { readonly limitMs: number; readonly log: Logger; readonly signal: AbortSignal },
): Promise<void> {
  for (let [left, limit] = [TRIES, limitMs * 2]; ; left -= 1, limit *= 2) {
    signal.throwIfAborted();
    try {
      await cleanUpDead(binary, bundle, { limitMs: limit, log });
      return;
    } catch (error) {
      if (left === 1 || !isErrorClass(error, "deadline-exceeded")) throw error;
      log.warn("cleaning up after a dead shim takes long, trying again", { id: bundle.id, limit_ms: limit });
    }
  }
}

async function removeLeftCgroup({ id, path }: Pick<Bundle, "id" | "path">, log: Logger): Promise<void> {
  try {
    const wanted = cgroupsPathOf(await readFile(join(path, BUNDLE_FILE.config), "utf8"));
    if (wanted === undefined) return;
    const cgroup = cgroupAt(wanted);
    if (cgroupExists(cgroup) && !(await deleteEmptyCgroup(cgroup, LEAVING_MS)))
      log.warn("the cgroup of a dead shim's container has processes", { id });
  } catch (error) {
    log.debug("looking for the cgroup of a dead shim's container", { id, error: messageOf(error) });
  }
}
