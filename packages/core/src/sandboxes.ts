import type { RequestContext } from "@stevedore/base";
import type { AnyValue } from "./events.ts";
import type { FieldMask, Labels } from "./labels.ts";

/** A sandbox as stored: what a controller needs to find or make the running one. */
export interface Sandbox {
  readonly id: string;
  readonly labels: Labels;
  readonly runtime: { readonly name: string; readonly options?: AnyValue };
  /** Kept byte for byte. */
  readonly spec?: AnyValue;
  /** Name of the controller that runs it. */
  readonly sandboxer: string;
  readonly extensions: Readonly<Record<string, AnyValue>>;
  readonly createdAt: Date;
  readonly updatedAt: Date;
}

/** A sandbox as a client asks for it: the store sets the times. */
export type NewSandbox = Omit<Sandbox, "createdAt" | "updatedAt">;

/** Sandboxes by namespace. */
export interface SandboxStore {
  /** @throws not-found `bucket "x" not found: not found` */
  get(context: RequestContext, id: string): Promise<Sandbox>;
  /** Sandboxes matching any filter (`id`, `labels."k"`), by id. */
  list(context: RequestContext, filters: readonly string[]): Promise<readonly Sandbox[]>;
  /** @throws already-exists; invalid-argument for a bad id */
  create(context: RequestContext, sandbox: NewSandbox): Promise<Sandbox>;
  /**
   * Mask paths `labels[.<k>]`, `extensions[.<k>]`, `spec`, `runtime`; empty: all of them, and the runtime's name must not
   * change.
   * @throws not-found; invalid-argument
   */
  update(context: RequestContext, sandbox: NewSandbox, fields: FieldMask): Promise<Sandbox>;
  /** @throws not-found */
  delete(context: RequestContext, id: string): Promise<void>;
}
