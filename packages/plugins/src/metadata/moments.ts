import { fractionalMs, Moment, momentOf } from "@stevedore/base/moment";

/** What stands for a {@link Moment} between threads: a structured clone would make a plain Date of it. No record has such a key. */
const KEY = "\0moment";

/** Replaces the moments in what is sent to another thread. Types stay what they are after {@link unpackMoments}. */
export function packMoments<T>(value: T): T;
export function packMoments(value: unknown): unknown {
  return replaced(value, (leaf) =>
    leaf instanceof Moment && leaf.below !== 0 ? { [KEY]: fractionalMs(leaf) } : undefined,
  );
}

/** Puts the moments back. */
export function unpackMoments<T>(value: T): T;
export function unpackMoments(value: unknown): unknown {
  return replaced(value, (leaf) => {
    if (typeof leaf !== "object" || leaf === null || !(KEY in leaf)) return undefined;
    const milliseconds = leaf[KEY];
    return typeof milliseconds === "number" ? momentOf(milliseconds) : undefined;
  });
}

/** A copy with what `replace` gives in its places; the value itself when there is nothing to replace. */
function replaced(value: unknown, replace: (leaf: object) => unknown): unknown {
  if (typeof value !== "object" || value === null) return value;
  const found = replace(value);
  if (found !== undefined) return found;
  if (Array.isArray(value)) {
    const copy = value.map((one) => replaced(one, replace));
    return copy.some((one, index) => one !== value[index]) ? copy : value;
  }
  if (Object.getPrototypeOf(value) !== Object.prototype) return value;
  let changed: Record<string, unknown> | undefined;
  for (const [key, one] of Object.entries(value)) {
    const other = replaced(one, replace);
    if (other === one) continue;
    changed ??= { ...value };
    changed[key] = other;
  }
  return changed ?? value;
}
