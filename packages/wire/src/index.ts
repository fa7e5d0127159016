export * from "./rpc/index.ts";
export * from "./status.ts";
