/** Whether the snapshots of an image are what its layers say, and their making anew. */
import { isErrorClass, messageOf, type RequestContext } from "@stevedore/base";
import type { Descriptor, Mount, Snapshotter } from "@stevedore/core";
import type { PlatformMatcher } from "@stevedore/oci/platform";
import { withTempMount } from "@stevedore/os/mount";
import type { Client } from "../client.ts";
import { platformManifest } from "../images/tree.ts";
import { type LayerStep, layerSteps, unpackImage } from "../images/unpack.ts";
import { withLease } from "../lease.ts";
import { compareTrees, type TreeDifference } from "./compare-trees.ts";

export interface LayersOf {
  readonly target: Descriptor;
  readonly matcher: PlatformMatcher;
  /** "" for the default. */
  readonly snapshotter: string;
}

export type LayersState =
  | { readonly kind: "ok"; readonly layers: number }
  /** No snapshot of the image is there. */
  | { readonly kind: "absent" }
  /** A layer's blob cannot be unpacked, so that there is nothing to compare with. */
  | { readonly kind: "unknown"; readonly layer: number; readonly reason: string }
  | {
      readonly kind: "damaged";
      /** The lowest layer, from 0, whose snapshot differs. */
      readonly layer: number;
      readonly snapshot: string;
      readonly differences: readonly TreeDifference[];
      /** Whether there are more than are told. */
      readonly more: boolean;
    };

/** Differences told of one snapshot. */
const MAX_DIFFERENCES = 20;

/**
 * Unpacks the image's layers once more, beside the snapshots that are there, and compares. Needs to mount, and the space of one more
 * unpacked image while it works.
 */
export async function verifyLayers(client: Client, context: RequestContext, of: LayersOf): Promise<LayersState> {
  const image = await platformManifest(client.content, context, of);
  const snapshotter = client.snapshotter(of.snapshotter);
  const there = await presentSteps(snapshotter, context, layerSteps(image));
  if (there.length === 0) return { kind: "absent" };
  return withLease(client.leases, context, async (leased) => {
    await using aside = new Aside(client, leased, snapshotter);
    for (const [layer, step] of there.entries()) {
      try {
        await aside.add(step);
      } catch (error) {
        return { kind: "unknown", layer, reason: messageOf(error) };
      }
    }
    const top = there.length - 1;
    const last = await aside.compare(top, there[top]?.chainId ?? "");
    if (last.differences.length === 0) return { kind: "ok", layers: there.length };
    for (const [layer, step] of there.slice(0, -1).entries()) {
      const found = await aside.compare(layer, step.chainId);
      if (found.differences.length > 0) return { kind: "damaged", layer, snapshot: step.chainId, ...found };
    }
    return { kind: "damaged", layer: top, snapshot: there[top]?.chainId ?? "", ...last };
  });
}

/**
 * Removes the snapshots of the image from `layer` up and unpacks them anew.
 * @throws failed-precondition when something stands on one of them, a container or another image for instance; it stays as it is then, with
 *   those below it
 */
export async function repairLayers(
  client: Client,
  context: RequestContext,
  of: LayersOf & { readonly layer: number },
): Promise<void> {
  const image = await platformManifest(client.content, context, of);
  const snapshotter = client.snapshotter(of.snapshotter);
  const there = await presentSteps(snapshotter, context, layerSteps(image));
  await withLease(client.leases, context, async (leased) => {
    try {
      for (const { chainId } of there.slice(of.layer).toReversed()) await snapshotter.remove(leased, chainId);
    } finally {
      // What was removed comes back, also when one had to stay.
      await unpackImage(client, leased, of);
    }
  });
}

/** The layers from the lowest up whose snapshots are there. */
async function presentSteps(
  snapshotter: Snapshotter,
  context: RequestContext,
  steps: readonly LayerStep[],
): Promise<readonly LayerStep[]> {
  const there: LayerStep[] = [];
  for (const step of steps) {
    try {
      await snapshotter.stat(context, step.chainId);
    } catch (error) {
      if (!isErrorClass(error, "not-found")) throw error;
      break;
    }
    there.push(step);
  }
  return there;
}

/** Snapshots of the same layers under names of their own; disposing removes them. */
class Aside implements AsyncDisposable {
  readonly #client: Client;
  readonly #context: RequestContext;
  readonly #snapshotter: Snapshotter;
  readonly #prefix = `verify-${crypto.randomUUID()}`;
  readonly #made: string[] = [];

  constructor(client: Client, context: RequestContext, snapshotter: Snapshotter) {
    this.#client = client;
    this.#context = context;
    this.#snapshotter = snapshotter;
  }

  async add(step: LayerStep): Promise<void> {
    const at = this.#made.length;
    const key = `${this.#prefix}-making`;
    const mounts = await this.#snapshotter.prepare(this.#context, key, { parent: this.#made.at(-1) ?? "" });
    try {
      const applied = await this.#client.diff.apply(this.#context, step.layer, { mounts, syncFs: false });
      if (applied.digest !== step.diffId) {
        throw new Error(`layer ${step.layer.digest} unpacks to ${applied.digest}, its image says ${step.diffId}`);
      }
      const name = `${this.#prefix}-${at}`;
      await this.#snapshotter.commit(this.#context, name, { key });
      this.#made.push(name);
    } catch (error) {
      await this.#snapshotter.remove(this.#context, key).catch(() => undefined);
      throw error;
    }
  }

  async compare(
    layer: number,
    snapshot: string,
  ): Promise<{ readonly differences: readonly TreeDifference[]; readonly more: boolean }> {
    const own = this.#made[layer] ?? "";
    return this.#viewing(own, async (expected) =>
      this.#viewing(snapshot, async (found) => {
        const differences: TreeDifference[] = [];
        for await (const difference of compareTrees(expected, found, this.#context.signal)) {
          if (differences.length === MAX_DIFFERENCES) return { differences, more: true };
          differences.push(difference);
        }
        return { differences, more: false };
      }),
    );
  }

  async #viewing<T>(parent: string, use: (folder: string) => Promise<T>): Promise<T> {
    const key = `${this.#prefix}-view-${crypto.randomUUID()}`;
    const mounts: readonly Mount[] = await this.#snapshotter.view(this.#context, key, { parent });
    try {
      return await withTempMount(mounts, use);
    } finally {
      await this.#snapshotter.remove(this.#context, key);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const name of this.#made.toReversed()) {
      await this.#snapshotter.remove(this.#context, name).catch((error: unknown) => {
        if (!isErrorClass(error, "not-found")) throw error;
      });
    }
  }
}
