import { readFile } from "node:fs/promises";
import { ALL_CAPABILITIES } from "../spec/default-spec.ts";

/** The capabilities this process has in effect, of those that have a name: what a privileged container can be given. */
export async function ownCapabilities(): Promise<string[]> {
  const status = await readFile("/proc/self/status", "utf8");
  const bits = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? "0"}`);
  // The list is in the kernel's order, one bit each.
  return ALL_CAPABILITIES.filter((_name, bit) => ((bits >> BigInt(bit)) & 1n) === 1n);
}
