import type { ShimName } from "@stevedore/sdk/local/shim-sockets";
import type { RawInvocation } from "../../kit/command.ts";
import type { CtrGlobals } from "../globals.ts";

/** The shim that the flags of `ctr shim` name. */
export function shimName(call: Pick<RawInvocation<CtrGlobals>, "globals" | "parents">): ShimName {
  const { address: daemonAddress, namespace } = call.globals;
  return { id: groupFlag(call, "id"), address: groupFlag(call, "shimAddress"), daemonAddress, namespace };
}

function groupFlag({ parents }: Pick<RawInvocation<CtrGlobals>, "parents">, key: string): string {
  const value = parents.get("shim")?.[key];
  return typeof value === "string" ? value : "";
}
