import { classified, type RequestContext } from "@stevedore/base";
import { momentOfMicros } from "@stevedore/base/moment";
import { goQuote, type Labels, type Lease, type LeaseManager, type LeaseResource, leaseField } from "@stevedore/core";
import type { MetadataDatabase } from "./database.ts";
import { type CollectNow, matcherTwice } from "./images.ts";
import { decodeLabels } from "./rows.ts";
import { scopeOf } from "./scope.ts";
import { statement } from "./statement.ts";

const all = statement<{ id: string; labels: string; created_at: number }, [string]>(
  "SELECT id, labels, created_at FROM leases WHERE namespace = ? ORDER BY id",
);
const find = statement<{ id: string }, [string, string]>("SELECT id FROM leases WHERE namespace = ? AND id = ?");
const resources = statement<{ type: string; id: string }, [string, string]>(
  "SELECT type, id FROM lease_resources WHERE namespace = ? AND lease = ? ORDER BY type, id",
);

export class MetadataLeaseManager implements LeaseManager {
  readonly #database: MetadataDatabase;
  readonly #collectNow: CollectNow;

  constructor(database: MetadataDatabase, collectNow: CollectNow) {
    this.#database = database;
    this.#collectNow = collectNow;
  }

  async create(context: RequestContext, lease: { readonly id: string; readonly labels: Labels }): Promise<Lease> {
    return this.#database.call("createLease", { scope: scopeOf(context), id: lease.id, labels: lease.labels });
  }

  async delete(context: RequestContext, id: string, options: { readonly sync?: boolean } = {}): Promise<void> {
    await this.#database.call("deleteLease", { scope: scopeOf(context), id });
    if (options.sync === true) await this.#collectNow(context.signal);
  }

  async list(context: RequestContext, filters: readonly string[]): Promise<readonly Lease[]> {
    await Promise.resolve();
    const { namespace } = scopeOf(context);
    const match = matcherTwice(filters, leaseField);
    return all(this.#database.reader)
      .all(namespace)
      .map((row) => ({ id: row.id, createdAt: momentOfMicros(row.created_at), labels: decodeLabels(row.labels) }))
      .filter(match);
  }

  async addResource(context: RequestContext, lease: string, resource: LeaseResource): Promise<void> {
    await this.#database.call("addLeaseResource", { scope: scopeOf(context), id: lease, resource });
  }

  async deleteResource(context: RequestContext, lease: string, resource: LeaseResource): Promise<void> {
    await this.#database.call("deleteLeaseResource", { scope: scopeOf(context), id: lease, resource });
  }

  async listResources(context: RequestContext, lease: string): Promise<readonly LeaseResource[]> {
    await Promise.resolve();
    const { namespace } = scopeOf(context);
    if (find(this.#database.reader).get(namespace, lease) === null) {
      throw classified("not-found", `lease ${goQuote(lease)}: not found`);
    }
    return resources(this.#database.reader).all(namespace, lease);
  }
}
