/** Mounts as data: what a snapshotter returns and what a shim, a differ or a client performs. */

/** One mount step. Shapes and words are containerd's `types.Mount`. */
export interface Mount {
  /** File system type: `overlay`, `bind`, `tmpfs`, ... */
  readonly type: string;
  /** Device or directory mounted. */
  readonly source: string;
  /** Path below the mount target, for steps that mount inside an earlier one; empty for the target itself. */
  readonly target: string;
  /** Options in fstab spelling (`rbind`, `ro`, `lowerdir=...`). */
  readonly options: readonly string[];
}
