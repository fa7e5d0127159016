export * from "./client.ts";
export * from "./metadata.ts";
export * from "./router.ts";
export * from "./types.ts";
