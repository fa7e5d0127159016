import { type FileHandle, open } from "node:fs/promises";
import type { RequestContext } from "@stevedore/base";
import { allPlatforms, anyOf, defaultMatcher, type PlatformMatcher, parsePlatform } from "@stevedore/oci/platform";
import type { Client } from "@stevedore/sdk/client";
import { exportArchive } from "@stevedore/sdk/images/export";
import { withLease } from "@stevedore/sdk/lease";
import { boolFlag, stringsFlag } from "../../kit/flags.ts";
import type { Output } from "../../kit/output.ts";
import { ctrCommand } from "../define.ts";
import { byTransferOr, imageStore, plainReference } from "./transfer-way.ts";

/** `ctr images export` */
export const command = ctrCommand({
  argsUsage: "[flags] <out> <image> ...",
  description: `Export images to an OCI tar archive.

Tar output is formatted as an OCI archive, a Docker manifest is provided for the platform.
Use '--skip-manifest-json' to avoid including the Docker manifest.json file.
Use '--platform' to define the output platform.
When '--all-platforms' is given all images in a manifest list must be available.`,
  flags: {
    skipManifestJson: boolFlag("skip-manifest-json", "do not add Docker compatible manifest.json to archive"),
    skipNonDistributable: boolFlag(
      "skip-non-distributable",
      "do not add non-distributable blobs such as Windows layers to archive",
    ),
    platform: stringsFlag("platform", "Pull content from a specific platform"),
    allPlatforms: boolFlag("all-platforms", "exports content from all platforms"),
    local: boolFlag("local", "run export locally rather than through transfer API"),
  },
  action: async ({ args, flags, globals, io }) => {
    const [out, ...names] = args;
    if (out === undefined || out === "" || names.length === 0) {
      throw new Error("please provide both an output filename and an image reference to export");
    }
    const wishes: Wishes = { ...flags, names };
    await using session = await globals.connect();
    await using archive = out === "-" ? standardOutput(io.stdout) : lazyFile(out);
    const exporting: Exporting = { client: session.client, context: session.context, write: archive.write };
    const local = async (): Promise<void> => exportLocally(exporting, wishes);
    if (flags.local) await local();
    else {
      await byTransferOr(
        async () =>
          withLease(session.client.leases, session.context, async (context) =>
            exportByTransfer({ ...exporting, context }, wishes),
          ),
        local,
      );
    }
    return 0;
  },
});

interface Wishes {
  readonly names: readonly string[];
  readonly platform: readonly string[];
  readonly allPlatforms: boolean;
  readonly skipManifestJson: boolean;
  readonly skipNonDistributable: boolean;
}

interface Exporting {
  readonly client: Client;
  readonly context: RequestContext;
  readonly write: (bytes: Uint8Array) => Promise<void>;
}

interface ArchiveOutput extends AsyncDisposable {
  readonly write: (bytes: Uint8Array) => Promise<void>;
}

function standardOutput(out: Output): ArchiveOutput {
  return {
    write: async (bytes) => {
      await Promise.resolve();
      out.write(bytes);
    },
    [Symbol.asyncDispose]: async () => Promise.resolve(),
  };
}

/** Opened by the first byte, so that a file is not emptied for an image that is not there. */
function lazyFile(path: string): ArchiveOutput {
  let opening: Promise<FileHandle> | undefined;
  return {
    write: async (bytes) => {
      opening ??= open(path, "w", 0o666);
      const file = await opening;
      for (let at = 0; at < bytes.length; ) at += (await file.write(bytes, at)).bytesWritten;
    },
    [Symbol.asyncDispose]: async () => {
      await (await opening?.catch(() => undefined))?.close();
    },
  };
}

async function exportByTransfer({ client, context, write }: Exporting, wishes: Wishes): Promise<void> {
  await client.transfer.transfer(context, imageStore("", { references: wishes.names.map(plainReference) }), {
    destination: {
      kind: "export",
      write,
      close: () => undefined,
      mediaType: "",
      platforms: wishes.platform.map((text) => parsePlatform(text)),
      allPlatforms: wishes.allPlatforms,
      skipCompatibilityManifest: wishes.skipManifestJson,
      skipNonDistributable: wishes.skipNonDistributable,
    },
  });
}

async function exportLocally({ client, context, write }: Exporting, wishes: Wishes): Promise<void> {
  const images = [];
  for (const name of wishes.names) images.push(await client.images.get(context, name));
  await exportArchive(client, context, {
    images,
    matcher: platformsOf(wishes),
    allPlatforms: wishes.allPlatforms,
    skipManifestJson: wishes.skipManifestJson,
    skipNonDistributable: wishes.skipNonDistributable,
    write,
  });
}

function platformsOf(flags: { readonly allPlatforms: boolean; readonly platform: readonly string[] }): PlatformMatcher {
  if (flags.allPlatforms) return allPlatforms;
  if (flags.platform.length === 0) return defaultMatcher();
  return anyOf(flags.platform.map((text) => parsePlatform(text)));
}
