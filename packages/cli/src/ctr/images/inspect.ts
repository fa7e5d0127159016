import { isErrorClass } from "@stevedore/base";
import { isIndexType, isManifestType } from "@stevedore/oci/media-types";
import { formatPlatformAll, normalizePlatform } from "@stevedore/oci/platform";
import { childBlobs, type ImageDescriptor, readBlob } from "@stevedore/sdk/images/tree";
import type { Image } from "@stevedore/sdk/types";
import { boolFlag } from "../../kit/flags.ts";
import type { Output } from "../../kit/output.ts";
import { ctrCommand } from "../define.ts";
import type { Session } from "../globals.ts";

/** `ctr images inspect` */
export const command = ctrCommand({
  argsUsage: "<image> [flags]",
  description: "inspect an image",
  leadingArguments: 1,
  flags: { content: boolFlag("content", "Show JSON content") },
  action: async ({ args, flags, globals, io }) => {
    const [name] = args;
    if (name === undefined || name === "") throw new Error("please provide an image reference");
    await using session = await globals.connect();
    const image = await session.client.images.get(session.context, name);
    printHead(io.stdout, image);
    await printTree({ session, out: io.stdout, content: flags.content }, image.target, { prefix: "", last: true });
    return 0;
  },
});

function goDate(date: Date): string {
  const [day = "", time = ""] = date.toISOString().replace("Z", "").split("T");
  return `${day} ${time.replace(/\.?0+$/, "")} +0000 UTC`;
}

function printHead(out: Output, { name, labels, createdAt, updatedAt }: Image): void {
  out.write(`${name}\n│    Created: ${goDate(createdAt)}\n│    Updated: ${goDate(updatedAt)}\n`);
  for (const key of Object.keys(labels).sort())
    out.write(`│    Label ${JSON.stringify(key)}: ${JSON.stringify(labels[key])}\n`);
}

interface Printing {
  readonly session: Session;
  readonly out: Output;
  readonly content: boolean;
}

async function printTree(
  of: Printing,
  descriptor: ImageDescriptor,
  at: { readonly prefix: string; readonly last: boolean },
): Promise<void> {
  const { session, out } = of;
  const { mediaType, digest, size, platform } = descriptor;
  out.write(`${at.prefix}${at.last ? "└── " : "├── "}${mediaType} @${digest} (${size} bytes)\n`);
  const below = `${at.prefix}${at.last ? "    " : "│   "}`;
  let children: readonly ImageDescriptor[] = [];
  try {
    children = await childBlobs(session.client.content, session.context, descriptor);
  } catch (error) {
    if (!isErrorClass(error, "not-found")) throw error;
  }
  const bar = children.length > 0 ? "│   " : "    ";
  if (platform !== undefined) out.write(`${below}${bar} Platform: ${formatPlatformAll(normalizePlatform(platform))}\n`);
  if (of.content && (isManifestType(mediaType) || isIndexType(mediaType) || mediaType.endsWith("+json"))) {
    await printContent(of, digest, `${below}${bar} `);
  }
  for (const [index, child] of children.entries()) {
    await printTree(of, child, { prefix: below, last: index === children.length - 1 });
  }
}

async function printContent({ session, out }: Printing, digest: string, prefix: string): Promise<void> {
  let text: string;
  try {
    text = new TextDecoder().decode(await readBlob(session.client.content, session.context, { digest }));
  } catch (error) {
    if (isErrorClass(error, "not-found")) return;
    throw error;
  }
  const tree: unknown = JSON.parse(text);
  out.write(`${prefix}┌────────Content────────\n`);
  for (const line of JSON.stringify(tree, null, 4).split("\n")) out.write(`${prefix}│${line}\n`);
  out.write(`${prefix}└───────────────────────\n`);
}
