import { isErrorClass, type RequestContext } from "@stevedore/base";
import type { ContentStore, Descriptor } from "@stevedore/core";
import { childGcLabels } from "@stevedore/oci/annotations";
import { childBlobs } from "./tree.ts";

/**
 * Labels a document so that garbage collection keeps what it points at.
 * @returns the children.
 */
export async function labelChildren(
  content: ContentStore,
  context: RequestContext,
  parent: Descriptor,
): Promise<readonly Descriptor[]> {
  const children = await childBlobs(content, context, parent);
  await keepChildren(content, context, { parent, children });
  return children;
}

/** Labels a document with its children, which the caller has read from it. */
export async function keepChildren(
  content: ContentStore,
  context: RequestContext,
  { parent, children }: { readonly parent: Descriptor; readonly children: readonly Descriptor[] },
): Promise<void> {
  if (children.length === 0) return;
  const labels = childGcLabels(children);
  const fields = Object.keys(labels).map((key) => `labels.${key}`);
  await content.update(context, { digest: parent.digest, labels }, fields);
}

/** Labels the whole tree below `root`; documents that are not there are passed over. */
export async function labelTree(content: ContentStore, context: RequestContext, root: Descriptor): Promise<void> {
  const seen = new Set<string>();
  const queue: Descriptor[] = [root];
  for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
    if (seen.has(next.digest)) continue;
    seen.add(next.digest);
    try {
      queue.push(...(await labelChildren(content, context, next)));
    } catch (error) {
      if (next === root || !isErrorClass(error, "not-found")) throw error;
    }
  }
}
