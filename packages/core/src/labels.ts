import { classified } from "@stevedore/base";
import { goQuote } from "./go-quote.ts";

/** Labels of an object: string to string. */
export type Labels = Readonly<Record<string, string>>;

/** Paths of a field mask (`labels`, `labels.<key>`, `target`, ...). Empty means "all that may change". */
export type FieldMask = readonly string[];

/** Longest key plus value, in bytes: containerd's limit. */
export const MAX_LABEL_SIZE = 4096;

/** How much of a label key an error shows: containerd's limit. */
const SHOWN_KEY_LENGTH = 64;

/** @throws invalid-argument when key and value together exceed {@link MAX_LABEL_SIZE}. */
export function validateLabel(key: string, value: string): void {
  const total = Buffer.byteLength(key) + Buffer.byteLength(value);
  if (total <= MAX_LABEL_SIZE) return;
  const shown = key.length > SHOWN_KEY_LENGTH ? key.slice(0, SHOWN_KEY_LENGTH) : key;
  throw classified(
    "invalid-argument",
    `label key and value length (${total} bytes) greater than maximum size (${MAX_LABEL_SIZE} bytes), key: ${shown}: invalid argument`,
  );
}

/** Checks every label. @throws invalid-argument */
export function validateLabels(labels: Labels): void {
  for (const [key, value] of Object.entries(labels)) validateLabel(key, value);
}

/**
 * The labels after an update by mask: `labels` or no path replaces all, `labels.<k>` sets one. A label whose value is
 * empty is removed, as the peer does, which cannot store one.
 *
 * @param what names the object in the refusal of any other path; the path is quoted as the peer does
 * @throws invalid-argument `cannot update "x" field on <what>: invalid argument`
 */
export function mergeLabels(current: Labels, wanted: Labels, fields: FieldMask, what = "object"): Labels {
  let entries = new Map(Object.entries(current));
  if (fields.length === 0) entries = new Map(Object.entries(wanted));
  for (const path of fields) {
    if (path === "labels") entries = new Map(Object.entries(wanted));
    else if (path.startsWith("labels.")) {
      const key = path.slice("labels.".length);
      entries.set(key, Object.hasOwn(wanted, key) ? (wanted[key] ?? "") : "");
    } else {
      throw classified("invalid-argument", `cannot update ${goQuote(path)} field on ${what}: invalid argument`);
    }
  }
  return Object.fromEntries([...entries].filter(([, value]) => value !== ""));
}
