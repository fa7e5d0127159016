import { join } from "node:path";
import type { Logger } from "@stevedore/base/log";
import { untilCallsEnded } from "@stevedore/os/calls";
import { BUNDLE } from "./bundle.ts";

/** How long a runtime that a dead shim called may take to end, milliseconds; it is killed then. */
const RUNTIME_MS = 10_000;

/** Waits for the runtime calls that the dead shim has begun for a bundle: they go on without it. */
export async function untilRuntimeEnded(bundle: string, logger: Logger): Promise<void> {
  const pids = await untilCallsEnded(join(bundle, BUNDLE.runcLog), RUNTIME_MS);
  if (pids.length > 0) logger.warn("a runtime that a dead shim called did not end: killed", { bundle, pids });
}
