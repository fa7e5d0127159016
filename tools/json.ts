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

/** An object with these keys, and of `optional` those that are there. */
export function shapeOf<R extends Shape, O extends Shape = Record<never, never>>(
  required: R,
  optional?: O,
): Guard<{ readonly [K in keyof R]: Of<R[K]> } & { readonly [K in keyof O]?: Of<O[K]> }> {
  return (value): value is { readonly [K in keyof R]: Of<R[K]> } & { readonly [K in keyof O]?: Of<O[K]> } => {
    if (typeof value !== "object" || value === null) return false;
    const fields = new Map<string, unknown>(Object.entries(value));
    return (
      Object.entries(required).every(([key, guard]) => guard(fields.get(key))) &&
      Object.entries(optional ?? {}).every(([key, guard]) => !fields.has(key) || guard(fields.get(key)))
    );
  };
}

/** Reads a JSON file of the repository. Throws when it is not there, not JSON or not of the shape. */
export async function readJson<T>(path: string, guard: Guard<T>): Promise<T> {
  const value: unknown = JSON.parse(await readFile(join(root, path), "utf8"));
  if (!guard(value)) throw new Error(`${path} does not have the shape its reader expects`);
  return value;
}
