/** Installs the binaries of an image's layers into a folder of the host. */

import { mkdir } from "node:fs/promises";
import { createGunzip, createZstdDecompress } from "node:zlib";
import { classified, type RequestContext } from "@stevedore/base";
import type { Descriptor } from "@stevedore/core";
import { through } from "@stevedore/images/through";
import type { Descriptor as LayerDescriptor } from "@stevedore/oci/manifest";
import { diffCompression } from "@stevedore/oci/media-types";
import type { PlatformMatcher } from "@stevedore/oci/platform";
import { readTar, type TarEntry } from "@stevedore/oci/tar/index";
import { closeFd, writeAll } from "@stevedore/os/fd";
import { Root } from "@stevedore/os/path";
import type { Client } from "../client.ts";
import { platformManifest } from "../images/tree.ts";

export interface InstallOptions {
  readonly target: Descriptor;
  readonly matcher: PlatformMatcher;
  /** Folder that gets `bin` and, with `libs`, `lib`. */
  readonly path: string;
  readonly libs: boolean;
  /** Replace files that are there. */
  readonly replace: boolean;
}

/** Bytes of a layer read at once. */
const CHUNK = 1024 * 1024;
const PERMISSIONS = 0o777;

/** @throws already-exists for a file that is there and may not be replaced */
export async function installImage(client: Client, context: RequestContext, options: InstallOptions): Promise<void> {
  const { manifest } = await platformManifest(client.content, context, options);
  await mkdir(options.path, { recursive: true });
  using root = Root.open(options.path);
  for (const layer of manifest.layers) {
    for await (const entry of readTar(layerTar({ client, context }, layer))) await installEntry(root, entry, options);
  }
}

async function* layerBytes(
  { client, context }: { readonly client: Client; readonly context: RequestContext },
  layer: LayerDescriptor,
): AsyncGenerator<Uint8Array> {
  await using reader = await client.content.open(context, layer.digest);
  for (let at = 0; at < reader.size; ) {
    const bytes = await reader.readAt(at, CHUNK);
    if (bytes.byteLength === 0)
      throw classified("data-loss", `read layer ${layer.digest}: ended at ${at} of ${reader.size} bytes`);
    at += bytes.byteLength;
    yield bytes;
  }
}

function layerTar(
  of: { readonly client: Client; readonly context: RequestContext },
  layer: LayerDescriptor,
): AsyncIterable<Uint8Array> {
  const bytes = layerBytes(of, layer);
  const compression = diffCompression(layer.mediaType);
  if (compression === "gzip") return through(bytes, createGunzip());
  if (compression === "zstd") return through(bytes, createZstdDecompress());
  return bytes;
}

/** Takes files of `bin` and `lib` only; what else an image holds stays in it. */
async function installEntry(root: Root, entry: TarEntry, options: InstallOptions): Promise<void> {
  const { header } = entry;
  const path = header.name.replace(/^\.?\//, "");
  const wanted = path.startsWith("bin/") || (options.libs && path.startsWith("lib/"));
  if (!wanted || path.split("/").includes("..")) return;
  if (header.type !== "file" && header.type !== "symlink") return;
  const folder = path.slice(0, path.lastIndexOf("/"));
  root.mkdirAll(folder);
  if (root.statIfAny(path) !== undefined) {
    if (!options.replace) {
      throw classified("already-exists", `cannot replace ${path} in ${options.path}: already exists`);
    }
    root.unlink(path);
  }
  if (header.type === "symlink") {
    root.symlink(header.linkName, path);
    return;
  }
  const fd = root.createFile(path, header.mode & PERMISSIONS);
  try {
    for await (const chunk of entry.body()) writeAll(fd, chunk);
  } finally {
    closeFd(fd);
  }
}
