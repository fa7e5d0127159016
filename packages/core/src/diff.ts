import type { RequestContext } from "@stevedore/base";
import type { AnyValue } from "./events.ts";
import type { Descriptor } from "./images.ts";
import type { Labels } from "./labels.ts";
import type { Mount } from "./mount.ts";

/** How a layer is applied. */
export interface ApplyOptions {
  /** Payloads of stream processors, by id. */
  readonly payloads?: Readonly<Record<string, AnyValue>>;
  /** Sync the file system of the target before returning. */
  readonly syncFs?: boolean;
}

/** What is made of a comparison. */
export interface CompareOptions {
  /** Media type of the result; "" for `application/vnd.oci.image.layer.v1.tar+gzip`. */
  readonly mediaType: string;
  /** Ingest ref; "" for a generated one. */
  readonly ref: string;
  readonly labels: Labels;
  /** All timestamps in the result are cut to this, for reproducible layers. */
  readonly sourceDateEpoch?: Date;
}

/** Unpacks layers. */
export interface Applier {
  /**
   * Unpacks the layer `descriptor` onto `mounts`.
   * @returns descriptor of the uncompressed tar: media type, digest (diff ID) and size.
   * @throws not-found for missing content; not-implemented for a media type no applier takes; invalid-argument or
   *   data-loss for a damaged layer
   */
  apply(
    context: RequestContext,
    descriptor: Descriptor,
    options: ApplyOptions & { readonly mounts: readonly Mount[] },
  ): Promise<Descriptor>;
}

/** Makes layers. */
export interface Comparer {
  /**
   * Writes the changes from `lower` to `upper` as a layer into the content store, with the label
   * `containerd.io/uncompressed` when compressed.
   */
  compare(
    context: RequestContext,
    lower: readonly Mount[],
    options: CompareOptions & { readonly upper: readonly Mount[] },
  ): Promise<Descriptor>;
}

/** What the diff service walks in configured order until one does not answer not-implemented. */
export type Differ = Applier & Comparer;
