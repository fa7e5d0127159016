/** What the build knows of itself. `STEVEDORE_*` are put in by the build (--define); a run from source has the fall-backs. */
declare const STEVEDORE_VERSION: string | undefined;
declare const STEVEDORE_REVISION: string | undefined;

/** containerd's version that this one answers for; clients parse it, so it comes first. */
const COMPATIBLE_WITH = "2.3.4";

const own = typeof STEVEDORE_VERSION === "string" ? STEVEDORE_VERSION : "0.0.0";

export const VERSION = {
  package: "github.com/containerd/containerd/v2",
  version: `v${COMPATIBLE_WITH}+stevedore.${own}`,
  revision: typeof STEVEDORE_REVISION === "string" ? STEVEDORE_REVISION : "unknown",
} as const;
