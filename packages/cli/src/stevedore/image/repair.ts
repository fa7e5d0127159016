import { classified, isErrorClass, messageOf } from "@stevedore/base";
import { defaultMatcher } from "@stevedore/oci/platform";
import type { RegistryClient } from "@stevedore/registry";
import { labelChildren } from "@stevedore/sdk/images/children-labels";
import type { ImageDescriptor } from "@stevedore/sdk/images/tree";
import { verifyBlob, verifyBlobs } from "@stevedore/sdk/images/verify";
import { withLease } from "@stevedore/sdk/lease";
import type { Image } from "@stevedore/sdk/types";
import { boolFlag, stringFlag } from "../../kit/flags.ts";
import { type Session, stevedoreCommand } from "../main.ts";
import { REGISTRY_FLAGS, registryClient } from "../registry/client.ts";

/** `stevedore image repair` */
export const command = stevedoreCommand({
  argsUsage: "[flags] IMAGE",
  description:
    "Fetches the blobs of an image that are damaged or missing, and only those, from its registry, and unpacks anew the layers whose snapshots differ from them. What stands on such a snapshot (a container) keeps it: it is named, and the command ends with 1.",
  flags: {
    ...REGISTRY_FLAGS,
    from: stringFlag("from", "reference to fetch from. Empty: the image's own name"),
    blobs: boolFlag("blobs-only", "leave unpacked layers alone"),
    snapshotter: stringFlag("snapshotter", "snapshotter name. Empty value stands for the default value.", {
      env: ["CONTAINERD_SNAPSHOTTER"],
    }),
  },
  action: async ({ args, flags, globals, io }) => {
    const [name] = args;
    if (name === undefined || args.length > 1) {
      throw classified("invalid-argument", "repair: want the name of one image: invalid argument");
    }
    await using session = await globals.connect();
    const image = await session.client.images.get(session.context, name);
    const reference = flags.from === "" ? image.name : flags.from;
    const registry = registryClient(flags, reference, io);
    const say = (line: string): void => io.stdout.write(`${line}\n`);
    try {
      const fetched = await repairBlobs(session, image, { registry, reference, say });
      const unpacked = flags.blobs ? 0 : await repairUnpacked(session, image, { snapshotter: flags.snapshotter, say });
      if (fetched + unpacked === 0) say(`${image.name}: nothing to repair`);
      return 0;
    } finally {
      registry.close();
    }
  },
});

interface Fetching {
  readonly registry: RegistryClient;
  readonly reference: string;
  readonly say: (line: string) => void;
}

/** Fetches what is not as it should be, documents first: they name the rest. @returns how many blobs */
async function repairBlobs({ client, context }: Session, image: Image, of: Fetching): Promise<number> {
  const matcher = defaultMatcher();
  return withLease(client.leases, context, async (leased) => {
    const repaired = new Set<string>();
    for (;;) {
      let found: ImageDescriptor | undefined;
      for await (const { descriptor, state } of verifyBlobs(client.content, leased, {
        target: image.target,
        matcher,
      })) {
        if (state.kind === "ok") continue;
        const { digest } = descriptor;
        if (repaired.has(digest)) {
          throw classified(
            "failed-precondition",
            `repair ${digest}: it was fetched and written, and is still not what its digest says: this daemon keeps a blob it has; remove the image, wait for a collection, and pull it again: failed precondition`,
          );
        }
        found = descriptor;
        break;
      }
      if (found === undefined) return repaired.size;
      await fetchBlob({ client, context: leased }, found, of);
      // A record that is new names nothing yet, and the next collection would take what it stands for.
      await labelChildren(client.content, leased, found);
      repaired.add(found.digest);
      of.say(`${found.digest}: fetched`);
    }
  });
}

/** Writes a blob again; the daemon puts it in the place of the one it has. */
async function fetchBlob(
  { client, context }: Pick<Session, "client" | "context">,
  descriptor: ImageDescriptor,
  { registry, reference }: Fetching,
): Promise<void> {
  const { digest, size } = descriptor;
  await using writer = await client.content.writer(context, { ref: `repair-${digest}`, total: size });
  const { offset } = writer.status();
  const { body } = await registry.fetch(reference, descriptor, { offset, signal: context.signal });
  for await (const bytes of body) await writer.write(bytes);
  const found = writer.digest();
  if (found !== digest) throw classified("data-loss", `repair ${digest}: the registry sent ${found}: data loss`);
  try {
    // Without the digest: a daemon that is told one it has would not look at these bytes.
    await writer.commit(context, { size });
  } catch (error) {
    if (!isErrorClass(error, "already-exists")) throw error;
  }
  const state = await verifyBlob(client.content, context, descriptor);
  if (state.kind === "missing") throw classified("unknown", `repair ${digest}: it is not there after its commit`);
}

/** @returns 1 when layers were unpacked anew */
async function repairUnpacked(
  { client, context }: Session,
  image: Image,
  { snapshotter, say }: { readonly snapshotter: string; readonly say: (line: string) => void },
): Promise<number> {
  const { repairLayers, verifyLayers } = await import("@stevedore/sdk/local/verify-layers");
  const of = { target: image.target, matcher: defaultMatcher(), snapshotter };
  const state = await verifyLayers(client, context, of);
  if (state.kind === "unknown") {
    throw classified(
      "failed-precondition",
      `compare layer ${state.layer + 1} of ${image.name}: ${state.reason}: failed precondition`,
    );
  }
  if (state.kind === "ok") {
    // The label that keeps the snapshots goes with a config's record; this sets it again, and unpacks nothing.
    const { unpackImage } = await import("@stevedore/sdk/images/unpack");
    await withLease(client.leases, context, async (leased) => unpackImage(client, leased, of));
  }
  if (state.kind !== "damaged") return 0;
  try {
    await repairLayers(client, context, { ...of, layer: state.layer });
  } catch (error) {
    throw classified(
      "failed-precondition",
      `unpack ${image.name} anew from layer ${state.layer + 1} on: ${messageOf(error)}; remove the containers and snapshots that stand on ${state.snapshot}: failed precondition`,
    );
  }
  say(`unpacked anew from layer ${state.layer + 1} on`);
  return 1;
}
