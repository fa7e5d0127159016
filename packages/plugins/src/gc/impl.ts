export { DEFAULT_GC_CONFIG, GcScheduler, type GcSchedulerConfig, type GcSchedulerOptions } from "./scheduler.ts";
