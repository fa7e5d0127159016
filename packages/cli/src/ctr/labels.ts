import type { Labels } from "@stevedore/sdk/types";

/**
 * Labels from `key=value` arguments; a bare `key` stands for "true" and `key=` for "" (which clears it), as in the peer.
 */
export function parseLabelArgs(args: readonly string[]): Record<string, string> {
  const labels: Record<string, string> = {};
  for (const arg of args) {
    const equals = arg.indexOf("=");
    if (equals < 0) labels[arg] = "true";
    else labels[arg.slice(0, equals)] = arg.slice(equals + 1);
  }
  return labels;
}

/** `k=v,k=v` in key order; "-" for none. */
export function formatLabels(labels: Labels, none = ""): string {
  const parts = Object.keys(labels)
    .sort()
    .map((key) => `${key}=${labels[key] ?? ""}`);
  return parts.length === 0 ? none : parts.join(",");
}
