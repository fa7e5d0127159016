/** What the plugin graph tells clients about itself. */
export interface PluginRecord {
  readonly type: string;
  readonly id: string;
  readonly requires: readonly string[];
  readonly platforms: readonly { readonly os: string; readonly architecture: string; readonly variant: string }[];
  readonly exports: Readonly<Record<string, string>>;
  readonly capabilities: readonly string[];
  /** Absent when the plugin runs. `skip` is told apart by its message, as the peer does. */
  readonly initError?: { readonly code: number; readonly message: string };
}

/** Something deprecated that was used, and when last. */
export interface Deprecation {
  readonly id: string;
  readonly message: string;
  readonly lastOccurrence: Date;
}

/** Warnings about deprecated use, shown to clients by introspection. */
export interface DeprecationLog {
  emit(id: string): void;
  list(): readonly Deprecation[];
}
