import { backgroundContext, type RequestContext } from "@stevedore/base";
import type { ContainerStore } from "./containers.ts";
import type { ContentStore } from "./content.ts";
import type { ImageStore } from "./images.ts";
import type { LeaseManager } from "./leases.ts";
import type { NamespaceStore } from "./namespaces.ts";

/** The stores of one metadata implementation, for one test; disposed afterwards. */
export interface StoresFixture extends AsyncDisposable {
  readonly namespaces: NamespaceStore;
  readonly images: ImageStore;
  readonly containers: ContainerStore;
  readonly leases: LeaseManager;
  readonly content: ContentStore;
}

export const inDefault: RequestContext = backgroundContext({ namespace: "default" });
export const inOther: RequestContext = backgroundContext({ namespace: "other" });

/** Longest label containerd takes, plus one byte. */
export const TOO_LONG_LABEL = { k: "v".repeat(4096) };
export const LABEL_REFUSAL =
  "label key and value length (4097 bytes) greater than maximum size (4096 bytes), key: k: invalid argument";
