import { VERSION } from "../version.ts";
import type { ContainerdGlobals } from "./globals.ts";

/** Global flags as the daemon takes them: what was not given is absent. */
export function daemonArguments(globals: ContainerdGlobals) {
  const { config, logLevel, address, root, state } = globals;
  return {
    ...(config === undefined ? {} : { configPath: config }),
    ...(logLevel === "" ? {} : { logLevel }),
    ...(address === "" ? {} : { address }),
    ...(root === "" ? {} : { root }),
    ...(state === "" ? {} : { state }),
    version: { version: VERSION.version, revision: VERSION.revision },
  };
}
