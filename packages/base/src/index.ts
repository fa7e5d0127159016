export * from "./bytes.ts";
export * from "./context.ts";
export * from "./duration.ts";
export * from "./errors.ts";
export * from "./log.ts";
export * from "./moment.ts";
export * from "./trace.ts";
