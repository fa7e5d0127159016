export * from "./client.ts";
export * from "./memory-transport.ts";
export * from "./metadata.ts";
export * from "./router.ts";
export * from "./types.ts";
