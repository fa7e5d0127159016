import type { Mount } from "@stevedore/sdk/types";
import { goJson } from "../json.ts";

/** Mounts as the peer prints them for programs. */
export function mountsJson(mounts: readonly Mount[]): string {
  const tree = mounts.map(({ type, source, target, options }) => ({
    Type: type,
    Source: source,
    Target: target,
    Options: options,
  }));
  return `${goJson(tree)}\n`;
}
