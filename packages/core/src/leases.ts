import type { RequestContext } from "@stevedore/base";
import type { Labels } from "./labels.ts";

/** A lease keeps what it names from being collected until it is deleted or its `containerd.io/gc.expire` passes. */
export interface Lease {
  readonly id: string;
  readonly createdAt: Date;
  readonly labels: Labels;
}

/** Type words: `content`, `ingests`, `images`, `snapshots/<snapshotter>`. */
export interface LeaseResource {
  readonly id: string;
  readonly type: string;
}

/** Leases by namespace. */
export interface LeaseManager {
  /** @throws already-exists; invalid-argument for an empty id */
  create(context: RequestContext, lease: { readonly id: string; readonly labels: Labels }): Promise<Lease>;
  /** With `sync`, returns after garbage collection ran. @throws not-found */
  delete(context: RequestContext, id: string, options?: { readonly sync?: boolean }): Promise<void>;
  list(context: RequestContext, filters: readonly string[]): Promise<readonly Lease[]>;
  /** Adding twice is no error. @throws not-found for the lease; invalid-argument for the type; not-implemented for an unknown one */
  addResource(context: RequestContext, lease: string, resource: LeaseResource): Promise<void>;
  deleteResource(context: RequestContext, lease: string, resource: LeaseResource): Promise<void>;
  listResources(context: RequestContext, lease: string): Promise<readonly LeaseResource[]>;
}
