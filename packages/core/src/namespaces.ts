import type { RequestContext } from "@stevedore/base";
import type { FieldMask, Labels } from "./labels.ts";

/** A namespace and its labels. */
export interface Namespace {
  readonly name: string;
  readonly labels: Labels;
}

/** Namespaces isolate everything else by name. Methods name their namespace; the context's is not used. */
export interface NamespaceStore {
  /** @throws not-found */
  get(context: RequestContext, name: string): Promise<Namespace>;
  list(context: RequestContext): Promise<readonly Namespace[]>;
  /** @throws already-exists; invalid-argument for a bad name or label */
  create(context: RequestContext, namespace: Namespace): Promise<Namespace>;
  /** Mask paths `labels`, `labels.<k>`; empty: replace all labels. @throws not-found */
  update(context: RequestContext, namespace: Namespace, fields: FieldMask): Promise<Namespace>;
  /** @throws not-found; failed-precondition `namespace "x" must be empty, but it still has <what> on ...` */
  delete(context: RequestContext, name: string): Promise<void>;
}
