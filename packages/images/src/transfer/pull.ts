import { classified, messageOf, type RequestContext, withContext } from "@stevedore/base";
import type { Descriptor, RegistrySession, TransferRegistry, TransferStore } from "@stevedore/core";
import type { Descriptor as OciDescriptor } from "@stevedore/oci/manifest";
import { MediaType } from "@stevedore/oci/media-types";
import { parseReference, referenceHost, referencePath } from "@stevedore/oci/reference";
import { toImageDescriptor } from "../tree.ts";
import { originLabel } from "./blob-fetch.ts";
import { namesOfTarget, storeImages } from "./image-names.ts";
import { BlobProgress } from "./progress.ts";
import { refKey } from "./ref-key.ts";
import { forgetResume, keepForResume, wasBrokenOff } from "./resume.ts";
import { someOf } from "./selection.ts";
import { type Transfer, type TransferShared, tellOf } from "./service.ts";
import { Tree } from "./tree-walk.ts";
import { unpackFor, wantedUnpacks } from "./unpacking.ts";

/** How a registry stands in what is told of it, as the peer writes it. */
export function registryName({ reference }: TransferRegistry): string {
  return `OCI Registry (${reference})`;
}

/**
 * Registry to store. Documents first, blobs side by side, layers unpacked while others arrive; the image's record comes
 * last.
 */
export async function pull(transfer: Transfer, source: TransferRegistry, store: TransferStore): Promise<void> {
  const { shared, context, tell } = transfer;
  const from = registryName(source);
  tellOf(transfer, `Resolving from ${from}`);
  await using session = await shared.openRegistry(context, source);
  const { name, descriptor } = await resolve(session, source, context);
  if (descriptor.mediaType === MediaType.dockerSchema1Manifest) {
    throw classified("invalid-argument", "schema 1 image manifests are no longer supported: invalid argument");
  }
  await verify(shared, context, { name, descriptor });
  tellOf(transfer, `Pulling from ${from}`);
  tell?.({ event: "fetching image content", name, descriptor });
  const into = wantedUnpacks(store, shared.unpackers.platforms);
  using progress = new BlobProgress(name, "downloading", tell);
  const pulled = { reference: name, blobs: new Set<string>(), ingests: new Set<string>() };
  try {
    await fetchTree({ transfer, session, store, into, progress, pulled, name }, descriptor);
  } catch (error) {
    const reason: unknown = context.signal.aborted ? context.signal.reason : error;
    if (wasBrokenOff(reason)) await keepForResume(shared.leases, context, pulled).catch(() => undefined);
    throw error;
  }
  const labels = store.labels;
  const images = await storeImages(shared.images, context, {
    names: namesOfTarget(store, descriptor),
    target: descriptor,
    labels,
  });
  for (const image of images) tell?.({ event: "saved", name: image.name, descriptor: image.target });
  await forgetResume(shared.leases, context, name);
  tellOf(transfer, `Completed pull from ${from}`);
}

async function resolve(session: RegistrySession, { reference }: TransferRegistry, context: RequestContext) {
  try {
    return await session.resolve(reference, context.signal);
  } catch (error) {
    context.signal.throwIfAborted();
    throw withContext("failed to resolve image", error);
  }
}

/** @throws unknown, in containerd's words, for an image that a verifier does not let pass, or has no judgement of */
async function verify(
  { verifiers }: TransferShared,
  context: RequestContext,
  { name, descriptor }: { readonly name: string; readonly descriptor: Descriptor },
): Promise<void> {
  for (const [id, verifier] of verifiers) {
    let judgement: Awaited<ReturnType<typeof verifier.verify>>;
    try {
      judgement = await verifier.verify(context, name, descriptor);
    } catch (error) {
      context.signal.throwIfAborted();
      const what = `blocking pull of ${name} with digest ${descriptor.digest}: image verifier ${id} returned error`;
      throw classified("unknown", `${what}: ${messageOf(error)}`, { cause: error });
    }
    if (judgement.ok) continue;
    throw classified(
      "unknown",
      `image verifier ${id} blocked pull of ${name} with digest ${descriptor.digest} for reason: ${judgement.reason}`,
    );
  }
}

interface Fetching {
  readonly transfer: Transfer;
  readonly session: RegistrySession;
  readonly store: TransferStore;
  readonly into: ReturnType<typeof wantedUnpacks>;
  readonly progress: BlobProgress;
  /** What is there, and what has begun. */
  readonly pulled: { readonly blobs: Set<string>; readonly ingests: Set<string> };
  /** What the reference was resolved to. */
  readonly name: string;
}

async function fetchTree(of: Fetching, top: Descriptor): Promise<void> {
  const { transfer, session, store, into, progress, pulled, name } = of;
  const { shared } = transfer;
  const reference = parseReference(name);
  const origin = { label: originLabel(referenceHost(reference)), repository: referencePath(reference) };
  const failure = new AbortController();
  const context = { ...transfer.context, signal: AbortSignal.any([transfer.context.signal, failure.signal]) };
  const onLayer = (layer: Descriptor, state: "extracting" | "extracted"): void => progress.reached(layer, state);
  const arrive = async (descriptor: OciDescriptor): Promise<void> => {
    const plain = toImageDescriptor(descriptor);
    const { urls } = descriptor;
    const ref = refKey(plain);
    pulled.ingests.add(ref);
    const fetched = await shared.fetcher.fetch(context, {
      descriptor: plain,
      origin,
      open: (offset, signal) => session.fetch(name, plain, { offset, signal, ...(urls === undefined ? {} : { urls }) }),
      onBytes: (bytes) => progress.moved(plain, bytes),
    });
    pulled.ingests.delete(ref);
    pulled.blobs.add(plain.digest);
    progress.reached(plain, fetched === "exists" ? "already exists" : "complete");
  };
  const tree: Tree = new Tree(shared.content, context, {
    select: someOf(store, top),
    failure,
    visitor: {
      arrive,
      onBlob: (descriptor, parent) =>
        progress.add(toImageDescriptor(descriptor), parent === undefined ? undefined : toImageDescriptor(parent)),
      onManifest: async (descriptor, manifest) => {
        if (into.length === 0) return;
        await tree.arrived(manifest.config);
        await unpackFor(shared.unpackers, context, {
          descriptor,
          manifest,
          into,
          arrived: async (layer) => tree.arrived(layer),
          onLayer,
        });
      },
    },
  });
  try {
    await tree.walk(top);
  } catch (error) {
    transfer.context.signal.throwIfAborted();
    throw error;
  }
}
