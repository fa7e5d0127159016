import { classified } from "@stevedore/base";
import { anyFromProto, anyToProto } from "@stevedore/convert/any";
import { timestampToProto } from "@stevedore/convert/timestamps";
import type { AnyValue, DeprecationLog, PluginRecord } from "@stevedore/core";
import type { Introspection } from "@stevedore/wire/gen/containerd/services/introspection/v1/introspection_pb";
import type { ServiceImpl } from "@stevedore/wire/rpc/index";

/** What the daemon knows of itself. */
export interface ServerIdentity {
  /** Stable over restarts. */
  readonly uuid: string;
  readonly pid: number;
  /** Inode of the pid namespace. */
  readonly pidNamespace: bigint;
}

/** What a plugin tells of itself when asked. */
export type PluginExtra = (request: AnyValue, signal: AbortSignal) => Promise<AnyValue>;

/** The introspection service. */
export function introspectionService(of: {
  /** Plugins that match any of the filters. @throws invalid-argument */
  readonly plugins: (filters: readonly string[]) => readonly PluginRecord[];
  readonly identity: () => Promise<ServerIdentity>;
  readonly deprecations: DeprecationLog;
  /** What of a plugin can tell more; undefined when it cannot. */
  readonly extraOf: (type: string, id: string) => PluginExtra | undefined;
}): ServiceImpl<typeof Introspection> {
  return {
    plugins: async ({ filters }) => ({
      plugins: of.plugins(filters).map(pluginToProto),
    }),
    pluginInfo: async ({ type, id, options }, call) => {
      const record = of.plugins([]).find((plugin) => plugin.type === type && plugin.id === id);
      if (record === undefined) throw classified("not-found", `plugin ${type}.${id} not found: not found`);
      const plugin = pluginToProto(record);
      if (options === undefined) return { plugin };
      if (record.initError !== undefined) {
        throw classified(
          "failed-precondition",
          "cannot get extra info, plugin not successfully loaded: failed precondition",
        );
      }
      const extra = of.extraOf(type, id);
      if (extra === undefined) {
        throw classified("not-implemented", "plugin does not provided extra information: not implemented");
      }
      return { plugin, extra: anyToProto(await extra(anyFromProto(options), call.signal)) };
    },
    server: async () => {
      const { uuid, pid, pidNamespace } = await of.identity();
      return {
        uuid,
        pid: BigInt(pid),
        pidns: pidNamespace,
        deprecations: of.deprecations.list().map(({ id, message, lastOccurrence }) => ({
          id,
          message,
          lastOccurrence: timestampToProto(lastOccurrence),
        })),
      };
    },
  };
}

function pluginToProto(record: PluginRecord) {
  const { type, id, requires, platforms, exports, capabilities, initError } = record;
  return {
    type,
    id,
    requires: [...requires],
    platforms: platforms.map((platform) => ({ ...platform })),
    exports: { ...exports },
    capabilities: [...capabilities],
    ...(initError === undefined ? {} : { initErr: { code: initError.code, message: initError.message } }),
  };
}
