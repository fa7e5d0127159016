import { classified } from "@stevedore/base";
import { ShimClient, type TaskApiVersion } from "@stevedore/sdk/local/shim-client";
import type { RawInvocation } from "../../kit/command.ts";
import type { CtrGlobals } from "../globals.ts";
import { shimName } from "./name.ts";

type ShimCall = Pick<RawInvocation<CtrGlobals>, "globals" | "io" | "parents">;

/** The value of `ctr shim --id`. */
export function shimId(call: ShimCall): string {
  return shimName(call).id;
}

/** Connects to the shim that the flags of `ctr shim` name. @throws unavailable, invalid-argument */
export async function connectShim(call: ShimCall): Promise<ShimClient> {
  return ShimClient.connect(shimName(call), call.io.signal);
}

/** @throws invalid-argument for a version that shims never had. */
export function apiVersion(given: number): TaskApiVersion {
  if (given !== 2 && given !== 3) throw classified("invalid-argument", "api-version must be 2 or 3");
  return given;
}
