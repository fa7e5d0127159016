import { hostPlatform, normalizePlatform, parsePlatform } from "@stevedore/oci/platform";

/** The platform that plugins bound to one show. */
export function hostPlugin(): { readonly os: string; readonly architecture: string; readonly variant: string } {
  const { os, architecture, variant = "" } = hostPlatform();
  return { os, architecture, variant };
}

/** A platform that a plugin's configuration names. @throws invalid-argument */
export function pluginPlatform(specifier: string): ReturnType<typeof hostPlugin> {
  const { os, architecture, variant = "" } = normalizePlatform(parsePlatform(specifier));
  return { os, architecture, variant };
}
