import { isErrorClass, messageOf } from "@stevedore/base";
import { isConfigType, isIndexType, isManifestType } from "@stevedore/oci/media-types";
import { defaultMatcher, type PlatformMatcher } from "@stevedore/oci/platform";
import { type BlobState, type VerifiedBlob, verifyBlobs } from "@stevedore/sdk/images/verify";
import type { LayersState } from "@stevedore/sdk/local/verify-layers";
import type { Image } from "@stevedore/sdk/types";
import type { CommandIO } from "../../kit/command.ts";
import { boolFlag, stringFlag } from "../../kit/flags.ts";
import { formatBytes } from "../../kit/format.ts";
import { LIST_TABLE, tabwrite } from "../../kit/tabwriter.ts";
import { type Session, stevedoreCommand } from "../main.ts";

/** What was found of an image. */
interface Report {
  readonly image: Image;
  readonly blobs: readonly VerifiedBlob[];
  /** Absent when it was not looked at. */
  readonly layers?: LayersState;
}

/** `stevedore image verify` */
export const command = stevedoreCommand({
  argsUsage: "[flags] [IMAGE ...]",
  description:
    "Reads every blob of the images (of all when none is named) and compares it with its digest, then unpacks their layers once more and compares what a container sees, file by file. Ends with 1 when anything is damaged or missing.",
  flags: {
    blobs: boolFlag("blobs-only", "do not compare unpacked layers, which needs root on the daemon's machine"),
    snapshotter: stringFlag("snapshotter", "snapshotter name. Empty value stands for the default value.", {
      env: ["CONTAINERD_SNAPSHOTTER"],
    }),
    json: boolFlag("json", "print one JSON object for each image"),
    quiet: boolFlag("quiet", "print only what is not as it should be", { aliases: ["q"] }),
  },
  action: async ({ args, flags, globals, io }) => {
    await using session = await globals.connect();
    const matcher = defaultMatcher();
    let bad = 0;
    for (const image of await wantedImages(session, args)) {
      let report: Report;
      try {
        report = await verifyImage(session, image, { matcher, ...flags });
      } catch (error) {
        session.context.signal.throwIfAborted();
        bad += 1;
        io.stderr.write(`${image.name}: ${messageOf(error)}\n`);
        continue;
      }
      if (!isSound(report)) bad += 1;
      if (flags.json) io.stdout.write(`${JSON.stringify(asJson(report))}\n`);
      else print(io, report, flags.quiet);
    }
    return bad === 0 ? 0 : 1;
  },
});

async function wantedImages({ client, context }: Session, names: readonly string[]): Promise<readonly Image[]> {
  if (names.length === 0) return client.images.list(context, []);
  return Promise.all(names.map(async (name) => client.images.get(context, name)));
}

async function verifyImage(
  { client, context }: Session,
  image: Image,
  of: { readonly matcher: PlatformMatcher; readonly blobs: boolean; readonly snapshotter: string },
): Promise<Report> {
  const { matcher, snapshotter } = of;
  const { target } = image;
  const blobs = await Array.fromAsync(verifyBlobs(client.content, context, { target, matcher }));
  // Without sound documents nothing says what the layers should be.
  const readable = blobs.every(({ descriptor, state }) => state.kind === "ok" || !isDocument(descriptor.mediaType));
  if (of.blobs || !readable) return { image, blobs };
  const { verifyLayers } = await import("@stevedore/sdk/local/verify-layers");
  try {
    return { image, blobs, layers: await verifyLayers(client, context, { target, matcher, snapshotter }) };
  } catch (error) {
    // Of another platform, or no image to unpack at all.
    if (isErrorClass(error, "not-found")) return { image, blobs, layers: { kind: "absent" } };
    throw error;
  }
}

function isDocument(mediaType: string): boolean {
  return isIndexType(mediaType) || isManifestType(mediaType) || isConfigType(mediaType);
}

function isSound({ blobs, layers }: Report): boolean {
  return blobs.every(({ state }) => state.kind === "ok") && layers?.kind !== "damaged" && layers?.kind !== "unknown";
}

function asJson({ image, blobs, layers }: Report): unknown {
  return {
    image: image.name,
    digest: image.target.digest,
    blobs: blobs.map(({ descriptor: { mediaType, digest, size }, state }) => ({ mediaType, digest, size, ...state })),
    ...(layers === undefined ? {} : { layers }),
  };
}

function print({ stdout }: CommandIO, report: Report, quiet: boolean): void {
  const { image, blobs, layers } = report;
  if (quiet && isSound(report)) return;
  stdout.write(`${image.name}\n`);
  const shown = quiet ? blobs.filter(({ state }) => state.kind !== "ok") : blobs;
  const rows = shown.map(
    ({ descriptor: { mediaType, digest, size }, state }) =>
      `  ${wordOf(mediaType)}\t${digest}\t${formatBytes(size)}\t${textOf(state)}\t\n`,
  );
  stdout.write(tabwrite(rows.join(""), LIST_TABLE));
  if (layers !== undefined && !(quiet && layers.kind !== "damaged" && layers.kind !== "unknown")) {
    stdout.write(`  unpacked: ${layersText(layers)}\n`);
    if (layers.kind === "damaged") {
      for (const { path, what } of layers.differences) stdout.write(`    ${path} ${what}\n`);
      if (layers.more) stdout.write("    … and more\n");
    }
  }
}

function wordOf(mediaType: string): string {
  if (isIndexType(mediaType)) return "index";
  if (isManifestType(mediaType)) return "manifest";
  return isConfigType(mediaType) ? "config" : "layer";
}

function textOf(state: BlobState): string {
  return state.kind === "damaged" ? `damaged: ${state.reason}` : state.kind;
}

function layersText(state: LayersState): string {
  switch (state.kind) {
    case "ok":
      return `ok (${state.layers} ${state.layers === 1 ? "layer" : "layers"})`;
    case "absent":
      return "not unpacked";
    case "unknown":
      return `cannot be compared: layer ${state.layer + 1}: ${state.reason}`;
    case "damaged":
      return `damaged from layer ${state.layer + 1} on, snapshot ${state.snapshot}`;
  }
}
