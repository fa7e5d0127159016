/**
 * What the daemon and a layer worker say to each other: plain JSON. The daemon's side is `plugins/diff-walking`, the
 * worker's is `packages/worker`; neither imports the other.
 *
 * A worker gets the job as JSON on its standard input, descriptors from 3 on as each job says, and writes one
 * {@link LayerResult} as JSON to its standard output. It is started in a mount and network namespace of its own.
 */

export interface JobMount {
  readonly type: string;
  readonly source: string;
  readonly target?: string;
  readonly options: readonly string[];
}

/** Against archives made to fill disks or inode tables. 0 switches a limit off. */
export interface LayerLimits {
  /** Bytes of the uncompressed archive. */
  readonly maxBytes: number;
  /** Uncompressed bytes per compressed byte, looked at once `ratioFloor` bytes came out. */
  readonly maxRatio: number;
  readonly ratioFloor: number;
  readonly maxEntries: number;
}

/**
 * - 8 million entries: the inodes of a 128 GiB ext4.
 * - ratio 1,100 beyond 4 GiB: above what DEFLATE can reach at all (1,032), so that only zstd bombs meet it by default.
 * - 1 TiB in all.
 */
export const DEFAULT_LAYER_LIMITS: LayerLimits = {
  maxBytes: 2 ** 40,
  maxRatio: 1_100,
  ratioFloor: 2 ** 32,
  maxEntries: 8_000_000,
};

/** Descriptor 3: the blob, a file (read by offset) or a pipe. */
export interface ApplyJob {
  readonly kind: "apply";
  readonly mounts: readonly JobMount[];
  /** `detect` looks at the first bytes: gzip, zstd, else plain. */
  readonly compression: "none" | "detect";
  /** A program that turns gzip on stdin into plain bytes on stdout, with its arguments; empty: the worker does it itself. */
  readonly gunzip: readonly string[];
  /** Digest and bytes the blob must have; "" and -1 when unknown. */
  readonly digest: string;
  readonly size: number;
  /** An existing folder the worker may mount on, in its own namespace only. */
  readonly mountPoint: string;
  /** Pid of who started the worker: it does not outlive it. */
  readonly parent: number;
  readonly syncFs: boolean;
  readonly limits: LayerLimits;
}

export interface ApplyResult {
  readonly kind: "applied";
  /** sha256 of the uncompressed archive. */
  readonly diffId: string;
  /** Bytes of the uncompressed archive. */
  readonly size: number;
  readonly entries: number;
  /** Folders that had to be made although no entry names them, as paths without a leading slash. At most {@link MAX_REPORTED}. */
  readonly implied: readonly string[];
  /** Folders marked opaque. At most {@link MAX_REPORTED}. */
  readonly opaque: readonly string[];
  /** What was left out, with the reason. At most {@link MAX_REPORTED}. */
  readonly warnings: readonly string[];
}

/** Standard output carries a {@link LayerResult}, descriptor 3 (a pipe) receives the layer. */
export interface CompareJob {
  readonly kind: "compare";
  readonly lower: readonly JobMount[];
  readonly upper: readonly JobMount[];
  readonly mountPoint: string;
  readonly parent: number;
  readonly compression: "none" | "gzip" | "zstd";
  /** Seconds since 1970: later modification times are cut to this. */
  readonly sourceDateEpoch?: number;
}

export interface CompareResult {
  readonly kind: "compared";
  /** sha256 of the uncompressed archive. */
  readonly diffId: string;
  readonly size: number;
  readonly entries: number;
}

/** A failed job: an error class of base and the message for the client. */
export interface FailedJob {
  readonly kind: "failed";
  readonly errorClass: string;
  readonly message: string;
}

export type LayerJob = ApplyJob | CompareJob;
export type LayerResult = ApplyResult | CompareResult | FailedJob;

export const MAX_REPORTED = 1_000;

/** The descriptor of the blob (apply) or of the layer's pipe (compare). */
export const LAYER_FD = 3;

/**
 * Extended attribute a worker leaves on folders that no entry named, when it cannot know the layers below (parallel
 * unpack: an upperdir without lowerdir). Whoever gives the snapshot its parent copies the parent's attributes there and
 * removes the mark.
 */
export const IMPLIED_MARK = "trusted.stevedore.implied";
