export { DEFAULT_TIMEOUTS, type ShimManagerOptions, ShimTaskManager, type ShimTimeouts } from "./manager.ts";
export type { ShimLogSink } from "./shim-log.ts";
