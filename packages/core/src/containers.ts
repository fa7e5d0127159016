import type { RequestContext } from "@stevedore/base";
import type { AnyValue } from "./events.ts";
import type { FieldMask, Labels } from "./labels.ts";

/** A container: a static object. Its running counterpart is a task. */
export interface Container {
  readonly id: string;
  readonly labels: Labels;
  readonly image: string;
  readonly runtime: { readonly name: string; readonly options?: AnyValue };
  /** The OCI spec as an Any; its bytes are stored and returned verbatim. */
  readonly spec?: AnyValue;
  readonly snapshotter: string;
  readonly snapshotKey: string;
  readonly sandbox: string;
  readonly extensions: Readonly<Record<string, AnyValue>>;
  readonly createdAt: Date;
  readonly updatedAt: Date;
}

/** A container as a client asks for it: the store sets the times. */
export type NewContainer = Omit<Container, "createdAt" | "updatedAt">;

/** Containers by namespace. */
export interface ContainerStore {
  /** @throws not-found `container "x" in namespace "y": not found` */
  get(context: RequestContext, id: string): Promise<Container>;
  /** Containers matching any filter (`id`, `image`, `runtime.name`, `labels."k"`), by id. */
  list(context: RequestContext, filters: readonly string[]): Promise<readonly Container[]>;
  /** @throws already-exists; invalid-argument for a bad id, no runtime name, no spec, snapshot key without snapshotter */
  create(context: RequestContext, container: NewContainer): Promise<Container>;
  /**
   * Mask paths: `labels`, `labels.<k>`, `spec`, `image`, `runtime`, `snapshotkey`, `extensions`, `extensions.<k>`, `sandbox`.
   * Empty: everything that may change; snapshotter and runtime name may not.
   * @throws not-found; invalid-argument
   */
  update(context: RequestContext, container: NewContainer, fields: FieldMask): Promise<Container>;
  /** @throws not-found */
  delete(context: RequestContext, id: string): Promise<void>;
}
