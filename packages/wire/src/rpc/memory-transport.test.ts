import { memoryTransport } from "./memory-transport.ts";
import { transportSuite } from "./transport-suite.ts";

transportSuite("memory", { seesCancel: true, hasTrailers: true }, async (router) => {
  const transport = memoryTransport(router);
  return { transport, close: () => transport.close() };
});
