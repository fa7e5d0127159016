export { DEFAULT_TIMEOUTS, type ShimManagerOptions, ShimTaskManager, type ShimTimeouts } from "./manager.ts";
export { type SandboxHosts, SandboxShims, type SandboxShimsOptions } from "./sandbox-shims.ts";
export type { ShimLogSink } from "./shim-log.ts";
