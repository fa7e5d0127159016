import type { RequestContext } from "@stevedore/base";
import type {
  AnyValue,
  ContainerStore,
  ContentStore,
  Deprecation,
  Differ,
  EventExchange,
  EventHistory,
  ImageStore,
  LeaseManager,
  NamespaceStore,
  PluginRecord,
  SandboxController,
  SandboxStore,
  Snapshotter,
  TaskManager,
  Transferrer,
} from "@stevedore/core";
import type { JsonObject } from "@stevedore/oci/json-lossless";

/** What a daemon says of itself. */
export interface DaemonVersion {
  readonly version: string;
  readonly revision: string;
}

/** Who a daemon is. */
export interface DaemonInfo {
  /** Stable over restarts. */
  readonly uuid: string;
  readonly pid: bigint;
  /** Inode number of its pid namespace. */
  readonly pidns: bigint;
  readonly deprecations: readonly Deprecation[];
}

/** A runtime's own words. */
export interface RuntimeInfo {
  readonly name: string;
  readonly version: string;
  readonly revision: string;
  /** The options that were asked with, as their fields; absent without any. */
  readonly options?: JsonObject;
  /** The OCI runtime's features; absent when it tells none. */
  readonly features?: JsonObject;
  readonly annotations: Readonly<Record<string, string>>;
}

/** What the daemon tells of itself and its plugins. */
export interface Introspection {
  /** Plugins matching any filter (`type`, `id`, `platforms`, `capabilities`). */
  plugins(context: RequestContext, filters: readonly string[]): Promise<readonly PluginRecord[]>;
  /**
   * What a runtime says of itself, by the shim that is asked for it.
   * @throws not-implemented by daemons before 2.0; unknown when there is no such runtime
   */
  runtime(context: RequestContext, name: string, options: AnyValue): Promise<RuntimeInfo>;
  /** @throws not-implemented by daemons before 1.7 for the fields they lack */
  server(context: RequestContext): Promise<DaemonInfo>;
}

/**
 * A client of one daemon. Its resources have the same interfaces as the daemon's own stores, so code written against
 * them works on either side of the socket. Nothing connects before the first call. Dispose it to close the connection.
 */
export interface Client extends AsyncDisposable {
  readonly containers: ContainerStore;
  readonly content: ContentStore;
  readonly diff: Differ;
  readonly events: EventExchange;
  /**
   * Events that were told earlier, with cursors to read on from. Only daemons of Stevedore have it; each call to another
   * fails with `not-implemented` and says so.
   */
  readonly eventLog: EventHistory;
  readonly images: ImageStore;
  readonly introspection: Introspection;
  readonly leases: LeaseManager;
  readonly namespaces: NamespaceStore;
  /** Records of sandboxes; {@link Client.sandboxController} runs them. */
  readonly sandboxes: SandboxStore;
  readonly tasks: TaskManager;
  /** Pulls, pushes, imports and exports within the daemon; containerd has it since 1.7. */
  readonly transfer: Transferrer;
  /** The sandbox controller of that name: `shim`, or a proxy plugin's. */
  sandboxController(name: string): SandboxController;
  /** The snapshotter of that name; "" is the daemon's default, overlayfs. */
  snapshotter(name: string): Snapshotter;
  version(context: RequestContext): Promise<DaemonVersion>;
}
