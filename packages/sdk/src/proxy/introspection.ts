import { dateFromProto } from "@stevedore/convert/timestamps";
import type { PluginRecord } from "@stevedore/core";
import type { Transport } from "@stevedore/wire/rpc/index";
import type { Introspection } from "../client.ts";
import { callOptions, lazyClient } from "./call.ts";

/** What a daemon tells of itself. */
export function introspectionProxy(transport: Transport): Introspection {
  const introspection = lazyClient(
    transport,
    async () =>
      (await import("@stevedore/wire/gen/light/containerd/services/introspection/v1/introspection_pb")).Introspection,
  );
  return {
    plugins: async (context, filters) => {
      const { plugins } = await (await introspection()).plugins({ filters: [...filters] }, callOptions(context));
      return plugins.map(
        ({ type, id, requires, platforms, exports, capabilities, initErr }): PluginRecord => ({
          type,
          id,
          requires: [...requires],
          platforms: platforms.map(({ os, architecture, variant }) => ({ os, architecture, variant })),
          exports: { ...exports },
          capabilities: [...capabilities],
          ...(initErr === undefined ? {} : { initError: { code: initErr.code, message: initErr.message } }),
        }),
      );
    },
    server: async (context) => {
      const { uuid, pid, pidns, deprecations } = await (await introspection()).server({}, callOptions(context));
      return {
        uuid,
        pid,
        pidns,
        deprecations: deprecations.map(({ id, message, lastOccurrence }) => ({
          id,
          message,
          lastOccurrence: dateFromProto(lastOccurrence),
        })),
      };
    },
  };
}
