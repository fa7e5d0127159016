import type { RequestContext } from "@stevedore/base";
import type { Applier, ContentStore, ImageStore, PluginRecord, Snapshotter } from "@stevedore/core";

/**
 * What work on images needs of a daemon: its own stores when the daemon does it, a client's of them when a client does.
 */
export interface ImageBackend {
  readonly content: ContentStore;
  readonly images: ImageStore;
  readonly diff: Applier;
  /** Asked whether a snapshotter takes the parent at commit (`rebase`). */
  readonly introspection: {
    plugins(context: RequestContext, filters: readonly string[]): Promise<readonly PluginRecord[]>;
  };
  /** The snapshotter of that name; "" is the default, overlayfs. */
  snapshotter(name: string): Snapshotter;
}
