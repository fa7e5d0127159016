import { isErrorClass } from "@stevedore/base";
import type { TransferReference, TransferStore } from "@stevedore/sdk/types";

/**
 * Does work by the daemon's transfer service, or the client's own way on a daemon without it (containerd before 1.7). A
 * daemon says so before anything of the work has begun.
 */
export async function byTransferOr(transfer: () => Promise<void>, local: () => Promise<void>): Promise<void> {
  try {
    await transfer();
  } catch (error) {
    if (!isErrorClass(error, "not-implemented")) throw error;
    await local();
  }
}

/** The image store as an end of a transfer, with what is not given left open. */
export function imageStore(name: string, more: Partial<Omit<TransferStore, "kind" | "name">> = {}): TransferStore {
  return {
    kind: "store",
    name,
    labels: {},
    platforms: [],
    allMetadata: false,
    manifestLimit: 0,
    references: [],
    unpacks: [],
    ...more,
  };
}

/** One whole name. */
export function plainReference(name: string): TransferReference {
  return { name, isPrefix: false, allowOverwrite: false, addDigest: false, skipNamedDigest: false };
}
