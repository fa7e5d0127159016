import { anyToProto } from "@stevedore/convert/any";
import { dateFromProto } from "@stevedore/convert/timestamps";
import type { PluginRecord } from "@stevedore/core";
import { isJsonObject, parseJson } from "@stevedore/oci/json-lossless";
import type { Transport } from "@stevedore/wire/rpc/index";
import type { Introspection } from "../client.ts";
import { callOptions, lazyClient, present } from "./call.ts";
import { runtimeOptionFields } from "./runtime-options.ts";

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
    runtime: async (context, name, options) => {
      const [{ RuntimeRequestSchema, RuntimeInfoSchema }, codec] = await Promise.all([
        import("@stevedore/wire/gen/light/containerd/types/introspection_pb"),
        import("@stevedore/wire/codec"),
      ]);
      const request = codec.makeMessage(RuntimeRequestSchema, { runtimePath: name, options: anyToProto(options) });
      const { extra } = await (await introspection()).pluginInfo(
        {
          type: RUNTIME_PLUGIN.type,
          id: RUNTIME_PLUGIN.id,
          options: {
            typeUrl: RuntimeRequestSchema.typeName,
            value: codec.encodeMessage(RuntimeRequestSchema, request),
          },
        },
        callOptions(context),
      );
      const info = codec.decodeMessage(RuntimeInfoSchema, present(extra, "runtime info").value);
      const asked = await runtimeOptionFields(info.options);
      const features = info.features === undefined ? undefined : parseJson(info.features.value);
      return {
        name: info.name,
        version: info.version?.version ?? "",
        revision: info.version?.revision ?? "",
        ...(asked === undefined ? {} : { options: asked }),
        ...(isJsonObject(features) ? { features } : {}),
        annotations: { ...info.annotations },
      };
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

/** The plugin that knows runtimes, by plugins.RuntimePluginV2 of containerd. */
const RUNTIME_PLUGIN = { type: "io.containerd.runtime.v2", id: "task" };
