import { classified } from "@stevedore/base";
import type { SandboxExit } from "@stevedore/core";
import type { Bundle } from "./bundle.ts";
import type { ShimBinary } from "./shim-binary.ts";
import type { ShimConnection } from "./shim-client.ts";

/** What is known of a sandbox's shim. */
export type SandboxShimState =
  /** Found on disk at the daemon's start, or its shim has died; `settled` resolves when it is known what becomes of it. */
  | { readonly kind: "loading"; readonly settled: Promise<void> }
  | { readonly kind: "connected"; readonly connection: ShimConnection }
  | { readonly kind: "gone" };

/** A running sandbox as the daemon knows it. */
export class SandboxEntry {
  readonly bundle: Bundle;
  readonly binary: ShimBinary;
  shim: SandboxShimState;
  /** Whether it was started once; what fails from then on takes nothing down. */
  started = false;
  /** Set while the end of its shim is no news: it is being made, or removed on request. */
  quiet = false;
  /** Whether its end was published. */
  told = false;
  /** Where its shim listens, once that is known. */
  address: string | undefined;
  /** Resolves when what follows the end of the current shim is done; replaced with each new one. */
  recovery: PromiseWithResolvers<void> = Promise.withResolvers();
  /** Ends when it leaves the table. */
  readonly over = new AbortController();
  readonly #gone = Promise.withResolvers<SandboxExit>();

  constructor(bundle: Bundle, binary: ShimBinary, shim: SandboxShimState) {
    this.bundle = bundle;
    this.binary = binary;
    this.shim = shim;
    if (shim.kind === "connected") this.address = shim.connection.record.address;
  }

  get id(): string {
    return this.bundle.id;
  }

  get key(): string {
    return sandboxKey(this.bundle.namespace, this.bundle.id);
  }

  /** Resolves with the end that was found when its shim had gone. */
  get gone(): Promise<SandboxExit> {
    return this.#gone.promise;
  }

  setGone(exit: SandboxExit): void {
    this.shim = { kind: "gone" };
    this.#gone.resolve(exit);
  }

  /** @throws unavailable while its shim has not answered since the daemon started; not-found when it is gone */
  get connection(): ShimConnection {
    if (this.shim.kind === "connected") return this.shim.connection;
    if (this.shim.kind === "gone") throw sandboxNotFound(this.id);
    throw classified("unavailable", `sandbox ${this.id}: its shim does not answer yet: unavailable`);
  }
}

export function sandboxKey(namespace: string, id: string): string {
  return `${namespace}/${id}`;
}

export function sandboxNotFound(id: string, cause?: unknown): Error {
  return classified("not-found", `sandbox ${id}: not found`, cause === undefined ? {} : { cause });
}
