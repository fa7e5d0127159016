import { errorClassOf, messageOf } from "@stevedore/base/errors";
import type { LayerResult } from "@stevedore/oci/layer-job";
import { writeAll } from "@stevedore/os/fd";
import { runApply } from "./apply.ts";
import { runCompare } from "./compare.ts";
import { parseJob } from "./job.ts";

/**
 * The layer worker: one job, then the end. Started by `plugins/diff-walking` in a mount and network namespace of its own
 * (`unshare --mount --net --propagation private`), job on stdin, blob or pipe as descriptor 3, result on stdout.
 *
 * Everything it needs is imported up front: once the target is its root there is nothing left to load from.
 *
 * @returns the exit status: 0 with a result, 1 with a failure, both as one JSON object on stdout.
 */
export async function runUnpackWorker(_argv: readonly string[] = []): Promise<number> {
  let result: LayerResult;
  try {
    const job = parseJob(await Bun.stdin.text());
    result = job.kind === "apply" ? await runApply(job) : await runCompare(job);
  } catch (error) {
    result = { kind: "failed", errorClass: errorClassOf(error), message: messageOf(error) };
  }
  writeAll(1, Buffer.from(JSON.stringify(result), "utf8"));
  return result.kind === "failed" ? 1 : 0;
}
