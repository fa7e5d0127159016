// Reading checked-in JSON files with their shape checked, since JSON.parse promises nothing.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { root } from "./project.ts";

/** Says whether a value has a shape. Built from the small ones below. */
export type Guard<T> = (value: unknown) => value is T;

type Shape = Readonly<Record<string, Guard<unknown>>>;
type Of<G> = G extends Guard<infer T> ? T : never;

export const isString: Guard<string> = (value): value is string => typeof value === "string";
export const isNumber: Guard<number> = (value): value is number => typeof value === "number";
export const isBoolean: Guard<boolean> = (value): value is boolean => typeof value === "boolean";

export function listOf<T>(item: Guard<T>): Guard<readonly T[]> {
  return (value): value is readonly T[] => Array.isArray(value) && value.every(item);
}

export function recordOf<T>(item: Guard<T>): Guard<Readonly<Record<string, T>>> {
  return (value): value is Readonly<Record<string, T>> =>
    typeof value === "object" && value !== null && !Array.isArray(value) && Object.values(value).every(item);
}

/** What an object of the guards' shape is; guards made by {@link maybe} stand for fields that may be missing. */
type Shaped<S extends Shape> = { readonly [K in keyof S]: Of<S[K]> };

/** An object with these fields. A field whose guard is made by {@link maybe} may be missing. */
export function shapeOf<S extends Shape>(shape: S): Guard<Shaped<S>> {
  return (value): value is Shaped<S> => {
    if (typeof value !== "object" || value === null) return false;
    const fields = new Map<string, unknown>(Object.entries(value));
    return Object.entries(shape).every(([key, guard]) => guard(fields.get(key)));
  };
}

/** For a field that may be missing. */
export function maybe<T>(guard: Guard<T>): Guard<T | undefined> {
  return (value): value is T | undefined => value === undefined || guard(value);
}

/** Reads a JSON file of the repository. Throws when it is not there, not JSON or not of the shape. */
export async function readJson<T>(path: string, guard: Guard<T>): Promise<T> {
  const value: unknown = JSON.parse(await readFile(join(root, path), "utf8"));
  if (!guard(value)) throw new Error(`${path} does not have the shape its reader expects`);
  return value;
}
