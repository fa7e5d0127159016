/**
 * What config files see of the native snapshotter: plugin `io.containerd.snapshotter.v1.native`, which exports `root` (the
 * folder used) and has no capabilities.
 */
export const NATIVE_DEFAULTS = { root_path: "" };
