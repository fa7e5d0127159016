import { builtins } from "./builtins.ts";
import { createDeprecationLog } from "./deprecations.ts";

let names: ReadonlySet<string> | undefined;

/** Full names of the plugins this daemon is made of. */
export function builtinNames(): ReadonlySet<string> {
  names ??= new Set(
    builtins({
      root: "",
      state: "",
      debug: false,
      logTraceId: false,
      grpcAddress: "",
      ttrpcAddress: "",
      timeouts: {},
      streamProcessors: {},
      proxyPlugins: {},
      tracingConfig: { endpoint: "", protocol: "", insecure: false, serviceName: "", samplingRatio: 0 },
      noSync: false,
      version: { version: "", revision: "" },
      deprecations: createDeprecationLog(),
      records: () => [],
    }).map(({ type, id }) => `${type}.${id}`),
  );
  return names;
}
