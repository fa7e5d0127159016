import type { RequestContext } from "@stevedore/base";
import type { FieldMask, Labels } from "./labels.ts";

/** An OCI descriptor as the API carries it. */
export interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  /** Bytes. */
  readonly size: number;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** A name for a target in the content store. */
export interface Image {
  readonly name: string;
  readonly labels: Labels;
  readonly target: Descriptor;
  readonly createdAt: Date;
  readonly updatedAt: Date;
}

/** An image as a client asks for it: the store sets the times it was not given. */
export type NewImage = Pick<Image, "name" | "labels" | "target"> & Partial<Pick<Image, "createdAt">>;

/** Images by namespace. */
export interface ImageStore {
  /** @throws not-found `image "x": not found` */
  get(context: RequestContext, name: string): Promise<Image>;
  /** Images matching any filter (`name`, `target.digest`, `target.mediatype`, `labels."k"`), by name. */
  list(context: RequestContext, filters: readonly string[]): Promise<readonly Image[]>;
  /** @throws already-exists; invalid-argument for a missing name or target */
  create(context: RequestContext, image: NewImage): Promise<Image>;
  /** Mask paths: `labels`, `labels.<k>`, `target`, `annotations`. Empty: labels and target. @throws not-found */
  update(context: RequestContext, image: NewImage, fields: FieldMask): Promise<Image>;
  /**
   * Removes the name. With `sync`, returns after garbage collection ran. With `target`, only if the image still points
   * at that digest.
   * @throws not-found; not-found as well when the target differs.
   */
  delete(
    context: RequestContext,
    name: string,
    options?: { readonly sync?: boolean; readonly target?: string },
  ): Promise<void>;
}
