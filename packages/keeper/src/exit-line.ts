import { encodeText } from "@stevedore/base/bytes";
import type { KeptExit } from "./protocol.ts";

/** Who saw an exit. `unknown`: nobody did, and the status is 255. */
export type ExitSource = "reaped" | "keeper" | "pidfd" | "unknown";

/** The line of a container's journal that tells how a process ended. Shims write it, and the keeper for those that died. */
export function exitLine(exec: string, exit: KeptExit, source: ExitSource, reason = ""): Uint8Array {
  const { pid, start, code, at } = exit;
  const line = { what: "exit", exec, pid, start, status: code, at, source, ...(reason === "" ? {} : { reason }) };
  return encodeText(`${JSON.stringify(line)}\n`);
}
