/** What a snapshot has beyond another, as a layer. */
import { isErrorClass, type RequestContext } from "@stevedore/base";
import type { CompareOptions, Descriptor, Differ, Mount, Snapshotter } from "@stevedore/core";

export interface SnapshotDiffOptions extends CompareOptions {
  readonly snapshotter: Snapshotter;
  readonly key: string;
  /** Absent: the other snapshot is the parent of `key`, and `key` is the one with more. */
  readonly upper?: string;
}

/** Writes the difference of a snapshot from its parent, or from it to another, into the content store. */
export async function diffSnapshots(
  differ: Differ,
  context: RequestContext,
  options: SnapshotDiffOptions,
): Promise<Descriptor> {
  const { snapshotter, key, upper: other, ...compare } = options;
  await using undo = new AsyncDisposableStack();
  const view = { snapshotter, context, undo };
  const [lower, upper] =
    other === undefined ? await parentAndSelf(view, key) : [await viewOf(view, key), await viewOf(view, other)];
  return await differ.compare(context, lower, { ...compare, upper });
}

interface Viewing {
  readonly snapshotter: Snapshotter;
  readonly context: RequestContext;
  readonly undo: AsyncDisposableStack;
}

async function parentAndSelf(of: Viewing, key: string): Promise<[lower: readonly Mount[], upper: readonly Mount[]]> {
  const info = await of.snapshotter.stat(of.context, key);
  const lower = info.parent === "" ? [] : await viewOf(of, info.parent);
  return [lower, await viewOf(of, key)];
}

/** The mounts of a snapshot: its own when it is active, those of a temporary view when it is committed. */
async function viewOf({ snapshotter, context, undo }: Viewing, id: string): Promise<readonly Mount[]> {
  const info = await snapshotter.stat(context, id);
  if (info.kind !== "committed") return snapshotter.mounts(context, id);
  const key = `${id}-view-${process.pid}-${Date.now()}`;
  const mounts = await snapshotter.view(context, key, { parent: id });
  undo.defer(async () => {
    await snapshotter.remove(context, key).catch((error: unknown) => {
      if (!isErrorClass(error, "not-found")) throw error;
    });
  });
  return mounts;
}
