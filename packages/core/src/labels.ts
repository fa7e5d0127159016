import { classified } from "@stevedore/base";

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
