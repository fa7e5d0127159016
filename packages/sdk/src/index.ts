/** The typed client of containerd and Stevedore. This module and all it imports run on Bun and on Node 22 and later. */
export {
  backgroundContext,
  ClassifiedError,
  type ErrorClass,
  errorClassOf,
  isErrorClass,
  type RequestContext,
} from "@stevedore/base";
export type { Client, DaemonInfo, DaemonVersion, Introspection } from "./client.ts";
export { type ConnectOptions, connectClient } from "./connect.ts";
export { withLease } from "./lease.ts";
export type * from "./types.ts";
