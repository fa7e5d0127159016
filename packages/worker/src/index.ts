import { classified, errorClassOf, messageOf } from "@stevedore/base/errors";
import type { LayerResult } from "@stevedore/oci/layer-job";
import { writeAll } from "@stevedore/os/fd";
import { setParentDeathSignal } from "@stevedore/os/process";
import { SIGKILL } from "@stevedore/os/signals";
import { runApply } from "./apply.ts";
import { runCompare } from "./compare.ts";
import { parseJob } from "./job.ts";

/** A worker without its daemon would go on writing into a folder that the next daemon is about to remove. */
function dieWithParent(parent: number): void {
  setParentDeathSignal(SIGKILL);
  if (process.ppid !== parent)
    throw classified("aborted", `layer worker: process ${parent}, which started it, is gone`);
}

/**
 * The layer worker: one job, then the end. Started by `plugins/diff-walking` in a mount and network namespace of its own
 * (`unshare --mount --net --propagation private`), job on stdin, blob or pipe as descriptor 3, result on stdout.
 *
 * Its arguments are only a mark by which a person or a test tells whose worker it is.
 *
 * Everything it needs is imported up front: once the target is its root there is nothing left to load from.
 *
 * @returns the exit status: 0 with a result, 1 with a failure, both as one JSON object on stdout.
 */
export async function runUnpackWorker(_mark: readonly string[] = []): Promise<number> {
  let result: LayerResult;
  try {
    const job = parseJob(await Bun.stdin.text());
    dieWithParent(job.parent);
    result = job.kind === "apply" ? await runApply(job) : await runCompare(job);
  } catch (error) {
    result = { kind: "failed", errorClass: errorClassOf(error), message: messageOf(error) };
  }
  writeAll(1, Buffer.from(JSON.stringify(result), "utf8"));
  return result.kind === "failed" ? 1 : 0;
}
