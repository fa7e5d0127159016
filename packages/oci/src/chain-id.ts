import { digestOf } from "./digest.ts";

/**
 * The chain ID of each layer, lowest first: what containerd names the snapshot of that layer and all below it. The
 * first equals its diff ID; each other is the digest of the chain ID below, a space, and its diff ID.
 */
export function chainIds(diffIds: readonly string[]): string[] {
  const chain: string[] = [];
  for (const diffId of diffIds) {
    const below = chain.at(-1);
    chain.push(below === undefined ? diffId : digestOf(`${below} ${diffId}`));
  }
  return chain;
}

/** The chain ID of all layers together; "" without layers. */
export function chainId(diffIds: readonly string[]): string {
  return chainIds(diffIds).at(-1) ?? "";
}
