export { createProxyContentStore } from "./content-store.ts";
export { createProxyDiffer } from "./differ.ts";
export { createProxySnapshotter } from "./snapshotter.ts";
