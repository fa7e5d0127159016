/** What the command line gives the daemon. Absent means: from the configuration. */
export interface DaemonArguments {
  /** Configuration file; absent: the default one, which may be missing. */
  readonly configPath?: string;
  readonly logLevel?: string;
  readonly address?: string;
  readonly root?: string;
  readonly state?: string;
  readonly version: { readonly version: string; readonly revision: string };
}

/** Where the configuration is when nobody says. */
export const DEFAULT_CONFIG_PATH = "/etc/containerd/config.toml";
