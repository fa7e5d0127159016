export { createProxyContentStore } from "./content-store.ts";
export { createProxyDiffer } from "./differ.ts";
export { createProxySandboxController } from "./sandbox-controller.ts";
export { createProxySnapshotter } from "./snapshotter.ts";
