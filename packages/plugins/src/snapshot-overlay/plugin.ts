/**
 * What clients and config files see of the overlayfs snapshotter: plugin `io.containerd.snapshotter.v1.overlayfs`, which
 * exports `root` (the folder used).
 */

const EMPTY: readonly string[] = [];

/** Its config section with containerd's defaults. */
export const OVERLAY_DEFAULTS = {
  root_path: "",
  upperdir_label: false,
  sync_remove: false,
  slow_chown: false,
  mount_options: EMPTY,
};

export interface OverlayCapabilityFacts {
  /** `slow_chown`: clients may ask for snapshots whose files are chowned one by one. */
  readonly slowChown: boolean;
  /** Whether those who perform our mounts (shim, layer worker) can do idmapped mounts. */
  readonly idmappedMounts: boolean;
}

/** Capabilities in containerd's order. Each is a promise: clients act on it without asking further. */
export function overlayCapabilities({ slowChown, idmappedMounts }: OverlayCapabilityFacts): readonly string[] {
  return [
    ...(idmappedMounts ? ["remap-ids"] : []),
    // Without slow_chown, idmapped mounts are the only way to another owner.
    ...(slowChown ? [] : ["only-remap-ids"]),
    "rebase",
  ];
}
