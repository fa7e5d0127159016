/**
 * Pids that Bun.spawn started and Bun itself waits for. A {@link Reaper} keeps its hands off them. Kept by spawn.ts,
 * which is the only place that starts processes.
 */
export const spawnedPids: Set<number> = new Set();
