import { classified } from "@stevedore/base/errors";

/** OCI image-spec layer.md: a file `.wh.<name>` deletes `<name>` of the lower layers. */
export const WHITEOUT_PREFIX = ".wh.";

/** OCI image-spec layer.md: this file empties its folder of everything the lower layers have there. */
export const OPAQUE_MARKER = ".wh..wh..opq";

export type Whiteout =
  | { readonly kind: "none" }
  | { readonly kind: "opaque" }
  /** `target` is a sibling's name. */
  | { readonly kind: "delete"; readonly target: string };

const NONE: Whiteout = { kind: "none" };
const OPAQUE: Whiteout = { kind: "opaque" };

/**
 * What an entry's last path component says about deletion.
 *
 * @throws invalid-argument for names that would point at the folder itself or above (`.wh.`, `.wh..`, `.wh...`).
 */
export function parseWhiteout(base: string): Whiteout {
  if (!base.startsWith(WHITEOUT_PREFIX)) return NONE;
  if (base === OPAQUE_MARKER) return OPAQUE;
  const target = base.slice(WHITEOUT_PREFIX.length);
  if (target === "" || target === "." || target === "..") {
    throw classified("invalid-argument", `invalid whiteout name: ${base}: invalid archive`);
  }
  return { kind: "delete", target };
}

/** The name under which a layer records that `base` is gone. */
export function whiteoutName(base: string): string {
  return `${WHITEOUT_PREFIX}${base}`;
}
