import type { PluginRecord } from "@stevedore/core";
import { type FieldOf, matcher } from "@stevedore/core/filters";

/** Fields `type`, `id`, `platforms`, `capabilities`. */
const pluginField: FieldOf<PluginRecord> = (record, path) => {
  const [name] = path;
  if (name === "type") return record.type;
  if (name === "id") return record.id;
  if (name === "platforms") return record.platforms.map(({ os, architecture }) => `${os}/${architecture}`).join(",");
  return name === "capabilities" ? record.capabilities.join(",") : undefined;
};

/** The plugins that match any of the filters. @throws invalid-argument */
export function filterPlugins(records: readonly PluginRecord[], filters: readonly string[]): PluginRecord[] {
  const wants = matcher(filters, pluginField);
  return records.filter(wants);
}
