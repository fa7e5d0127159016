import { classified } from "@stevedore/base/errors";
import type { AnyBytes } from "./options.ts";

/** The resource use of the cgroups a process is in. */
export async function readStats(pid: number): Promise<AnyBytes> {
  throw classified("not-implemented", `read stats of process ${pid}: not implemented`);
}
