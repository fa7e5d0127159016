import { classified, parseDuration } from "@stevedore/base";

/** Milliseconds of a Go duration (`5s`, `1m30s`, `0`). `key` names it in errors. @throws invalid-argument */
export function durationMs(text: string, key: string): number {
  const found = parseDuration(text);
  if (found !== undefined) return found;
  throw classified(
    "invalid-argument",
    `load config: key "${key}": ${JSON.stringify(text)} is no duration such as "5s"`,
  );
}
