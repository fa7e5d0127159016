import { hostPlatform } from "@stevedore/oci/platform";

/** The platform that plugins bound to one show. */
export function hostPlugin(): { readonly os: string; readonly architecture: string; readonly variant: string } {
  const { os, architecture, variant = "" } = hostPlatform();
  return { os, architecture, variant };
}
