/** A shim that the daemon shares among containers is told so by this variable: the daemon's pid. */
export const SHARED_VARIABLE = "STEVEDORE_SHARED_SHIM";

/**
 * Variables that mean something between a service manager or the daemon and this process only. The runtime and the
 * loggers get everything else the shim was given: administrators configure variables for custom runtimes
 * (`env` of the shim plugin), and no list of ours could know them.
 */
const PRIVATE =
  /^(NOTIFY_SOCKET|WATCHDOG_|LISTEN_|BUN_|STEVEDORE_|TTRPC_ADDRESS$|GRPC_ADDRESS$|MAX_SHIM_VERSION$|NAMESPACE$)/;

/** The environment of what the shim starts. */
export function childEnvironment(env: Readonly<Record<string, string | undefined>>): Record<string, string> {
  const kept: Record<string, string> = {};
  for (const [name, value] of Object.entries(env)) {
    if (value !== undefined && !PRIVATE.test(name)) kept[name] = value;
  }
  return kept;
}
