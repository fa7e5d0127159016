import { timestampToProto } from "@stevedore/convert/timestamps";
import type { DeprecationLog, PluginRecord } from "@stevedore/core";
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

/**
 * The introspection service. PluginInfo is answered by the runtime plugin alone, which asks its shim binary; without one
 * it is unimplemented.
 */
export function introspectionService(of: {
  /** Plugins that match any of the filters. @throws invalid-argument */
  readonly plugins: (filters: readonly string[]) => readonly PluginRecord[];
  readonly identity: () => Promise<ServerIdentity>;
  readonly deprecations: DeprecationLog;
}): Partial<ServiceImpl<typeof Introspection>> {
  return {
    plugins: async ({ filters }) => ({
      plugins: of.plugins(filters).map(({ type, id, requires, platforms, exports, capabilities, initError }) => ({
        type,
        id,
        requires: [...requires],
        platforms: platforms.map((platform) => ({ ...platform })),
        exports: { ...exports },
        capabilities: [...capabilities],
        ...(initError === undefined ? {} : { initErr: { code: initError.code, message: initError.message } }),
      })),
    }),
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
