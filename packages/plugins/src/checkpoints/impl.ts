export { type CheckpointingOptions, CheckpointingTasks } from "./checkpointing.ts";
