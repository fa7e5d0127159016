import type { PluginRecord } from "@stevedore/core";
import { type FieldOf, matcher } from "@stevedore/core/filters";

/** Fields `type`, `id`, `platforms`, `capabilities`. */
const pluginField: FieldOf<PluginRecord> = (record, path) => {
  switch (path[0]) {
    case "type":
      return record.type;
    case "id":
      return record.id;
    case "platforms":
      return record.platforms.map(({ os, architecture }) => `${os}/${architecture}`).join(",");
    case "capabilities":
      return record.capabilities.join(",");
    default:
      return undefined;
  }
};

/** The plugins that match any of the filters. @throws invalid-argument */
export function filterPlugins(records: readonly PluginRecord[], filters: readonly string[]): PluginRecord[] {
  const wants = matcher(filters, pluginField);
  return records.filter(wants);
}
