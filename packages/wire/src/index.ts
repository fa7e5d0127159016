export * from "./rpc/index.ts";
