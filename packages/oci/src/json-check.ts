import { classified } from "@stevedore/base";

/**
 * Checks of untrusted values against a plain type. A check answers undefined when the value fits, else what is wrong
 * with which part of it.
 */
export type Check = (value: unknown, path: string) => string | undefined;

/**
 * Whether `value` is a T by `check`. The pairing of T and check is the caller's promise; {@link shape} keeps it for
 * object types, since it asks for a check for each key of T.
 */
export function conforms<T>(value: unknown, check: Check): value is T {
  return check(value, "") === undefined;
}

/** @throws invalid-argument `<what>: <path>: found …, want …` when the value does not fit. */
export function expectConforming<T>(value: unknown, what: string, check: Check): T {
  const problem = check(value, "");
  if (problem === undefined && conforms<T>(value, ANYTHING)) return value;
  throw classified("invalid-argument", `${what}: ${problem ?? "malformed"}`);
}

const ANYTHING: Check = () => undefined;

export const isString: Check = (value, path) =>
  typeof value === "string" ? undefined : wrong(value, path, "a string");

export const isBoolean: Check = (value, path) =>
  typeof value === "boolean" ? undefined : wrong(value, path, "true or false");

/** An integer of any size: number or bigint. */
export const isInteger: Check = (value, path) =>
  typeof value === "bigint" || Number.isSafeInteger(value) ? undefined : wrong(value, path, "an integer");

/** An integer a number holds exactly. */
export const isSafeInteger: Check = (value, path) =>
  Number.isSafeInteger(value) ? undefined : wrong(value, path, "an integer below 2^53");

/** A count or an id: a safe integer that is not negative. */
export const isCount: Check = (value, path) =>
  typeof value === "number" && Number.isSafeInteger(value) && value >= 0
    ? undefined
    : wrong(value, path, "an integer from 0 to 2^53");

export const isAnything: Check = ANYTHING;

/** Absent fits too. */
export function optional(check: Check): Check {
  return (value, path) => (value === undefined ? undefined : check(value, path));
}

export function listOf(check: Check): Check {
  return (value, path) => {
    if (!Array.isArray(value)) return wrong(value, path, "a list");
    const items: readonly unknown[] = value;
    for (const [i, item] of items.entries()) {
      const problem = check(item, `${path}[${i}]`);
      if (problem !== undefined) return problem;
    }
    return undefined;
  };
}

/** An object with any keys, its values by `check`. */
export function recordOf(check: Check): Check {
  return (value, path) => {
    if (!isRecord(value)) return wrong(value, path, "an object");
    for (const [key, item] of Object.entries(value)) {
      const problem = check(item, path === "" ? key : `${path}.${key}`);
      if (problem !== undefined) return problem;
    }
    return undefined;
  };
}

/** An object with these fields; others may be there too. */
export function shape<T extends object>(fields: { readonly [K in keyof T]-?: Check }): Check {
  const checks: readonly (readonly [string, Check])[] = Object.entries<Check>(fields);
  return (value, path) => {
    if (!isRecord(value)) return wrong(value, path, "an object");
    for (const [key, check] of checks) {
      const problem = check(Object.hasOwn(value, key) ? value[key] : undefined, path === "" ? key : `${path}.${key}`);
      if (problem !== undefined) return problem;
    }
    return undefined;
  };
}

/**
 * The value without keys that are null, at any depth: Go's decoder takes a null field for an absent one. Shares what
 * it need not change.
 */
export function withoutNulls(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutNulls);
  if (!isRecord(value)) return value;
  const made: Record<string, unknown> = {};
  for (const [key, item] of Object.entries(value)) {
    if (item === null) continue;
    Object.defineProperty(made, key, {
      value: withoutNulls(item),
      enumerable: true,
      configurable: true,
      writable: true,
    });
  }
  return made;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function wrong(value: unknown, path: string, want: string): string {
  return `${path === "" ? "" : `${path}: `}found ${describe(value)}, want ${want}`;
}

/** Longest part of a found string that a message shows. */
const SHOWN = 64;

function describe(value: unknown): string {
  if (value === undefined) return "nothing";
  if (value === null) return "null";
  if (typeof value === "string") return JSON.stringify(value.length > SHOWN ? `${value.slice(0, SHOWN)}…` : value);
  if (typeof value === "number" || typeof value === "bigint" || typeof value === "boolean") return String(value);
  return Array.isArray(value) ? "a list" : "an object";
}
