/** Typed reading of values that the schema has already checked. */
import { classified } from "@stevedore/base";
import { isTable } from "./types.ts";

type Section = Readonly<Record<string, unknown>>;

export function textAt(section: Section, key: string): string {
  const value = section[key];
  if (typeof value === "string") return value;
  throw wrong(key, "a string");
}

export function numberAt(section: Section, key: string): number {
  const value = section[key];
  if (typeof value === "number") return value;
  throw wrong(key, "a number");
}

export function flagAt(section: Section, key: string): boolean {
  const value = section[key];
  if (typeof value === "boolean") return value;
  throw wrong(key, "true or false");
}

export function textsAt(section: Section, key: string): string[] {
  const value = section[key];
  if (Array.isArray(value) && value.every((item): item is string => typeof item === "string")) return value;
  throw wrong(key, "a list of strings");
}

export function sectionAt(section: Section, key: string): Section {
  const value = section[key];
  if (value === undefined) return {};
  if (isTable(value)) return value;
  throw wrong(key, "a table");
}

function wrong(key: string, what: string): Error {
  return classified("internal", `read config: key "${key}" should be ${what}`);
}
