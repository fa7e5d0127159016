export * from "./carrier.ts";
export * from "./client.ts";
export * from "./memory-carrier.ts";
export type { MetadataPair } from "./request.ts";
export * from "./server.ts";
export * from "./socket.ts";
export * from "./status.ts";
