import { isJsonObject, parseJson } from "./json-lossless.ts";

/**
 * The cgroup that a runtime specification (a config.json) asks for, as a path from the hierarchy's root; undefined when there is
 * none, or systemd makes it (`slice:prefix:name`).
 *
 * @throws invalid-argument when it is no JSON
 */
export function cgroupsPathOf(config: string): string | undefined {
  const spec = parseJson(config);
  const linux = isJsonObject(spec) ? spec["linux"] : undefined;
  const found = isJsonObject(linux) ? linux["cgroupsPath"] : undefined;
  return typeof found === "string" && found.startsWith("/") ? found : undefined;
}
