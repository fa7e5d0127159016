import { classified } from "@stevedore/base";
import type { StreamProcessor } from "./stream-processors.ts";

/** Reads `[stream_processors]` of the config file. @throws invalid-argument naming the entry that is wrong */
export function streamProcessorsOf(section: Readonly<Record<string, unknown>>): StreamProcessor[] {
  return Object.entries(section).map(([id, value]) => {
    if (!isFields(value)) throw wrong(id, "is no table");
    const { returns, path } = value;
    if (typeof returns !== "string") throw wrong(id, "has no media type it returns");
    if (typeof path !== "string" || path === "") throw wrong(id, "has no path");
    const list = (key: string): readonly string[] => {
      const given = value[key] ?? [];
      if (!Array.isArray(given) || !given.every((item): item is string => typeof item === "string")) {
        throw wrong(id, `has ${key} that are no list of strings`);
      }
      return given;
    };
    return { id, accepts: list("accepts"), returns, path, args: list("args"), env: list("env") };
  });
}

function isFields(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function wrong(id: string, what: string): Error {
  return classified("invalid-argument", `stream_processors.${JSON.stringify(id)} ${what}: invalid argument`);
}
