export * from "./header.ts";
export * from "./names.ts";
export * from "./parser.ts";
export * from "./read.ts";
export * from "./whiteout.ts";
export * from "./writer.ts";
