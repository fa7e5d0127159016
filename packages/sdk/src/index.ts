/** The typed client of containerd and Stevedore. */
export type { Client, DaemonInfo, DaemonVersion, Introspection } from "./client.ts";
export { type ConnectOptions, connectClient } from "./connect.ts";
export { withLease } from "./lease.ts";
export type * from "./types.ts";
