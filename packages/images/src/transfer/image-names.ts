import { classified, isErrorClass, type RequestContext } from "@stevedore/base";
import type { Descriptor, Image, ImageStore, TransferReference, TransferStore } from "@stevedore/core";
import { Annotation } from "@stevedore/oci/annotations";

/** Names the store's description gives to the target of a pull, to what is tagged, and to an archive's index. */
export function namesOfTarget({ name, references }: TransferStore, { digest }: Descriptor): string[] {
  const whole = references
    .filter(({ isPrefix }) => !isPrefix)
    .map((reference) => (reference.addDigest ? `${reference.name}@${digest}` : reference.name));
  return name === "" ? whole : [name, ...whole];
}

/** Names the store's description gives to an image of an archive, by what the archive's index says of it. */
export function namesOfArchived({ references }: TransferStore, target: Descriptor): string[] {
  const names: string[] = [];
  for (const reference of references) {
    if (!reference.isPrefix) continue;
    const name = annotatedName(target, reference);
    if (name !== "") names.push(name);
    if (reference.addDigest && (name === "" || !reference.skipNamedDigest)) {
      names.push(`${reference.name}@${target.digest}`);
    }
  }
  return names;
}

function annotatedName({ annotations = {} }: Descriptor, reference: TransferReference): string {
  const full = annotations[Annotation.imageName] ?? "";
  // A full name stays as it is, or is no name.
  if (full !== "") return withPrefix(full, reference) === full ? full : "";
  const ref = annotations[Annotation.refName] ?? "";
  return ref === "" ? "" : withPrefix(ref, reference);
}

/** A tag behind the prefix; a whole reference as it is, or "" when it does not begin with the prefix and has to. */
function withPrefix(ref: string, { name: prefix, allowOverwrite }: TransferReference): string {
  if (prefix === "") return "";
  if (!/[/:@]/.test(ref)) return `${prefix}:${ref}`;
  return allowOverwrite || beginsWithName(ref, prefix) ? ref : "";
}

function beginsWithName(text: string, prefix: string): boolean {
  return text.startsWith(prefix) && (text.length === prefix.length || /[/:@]/.test(text[prefix.length] ?? ""));
}

/**
 * Creates images, or moves those there are, to a target.
 *
 * @throws not-found `no image name found` without a name
 */
export async function storeImages(
  images: ImageStore,
  context: RequestContext,
  of: { readonly names: readonly string[]; readonly target: Descriptor; readonly labels: Image["labels"] },
): Promise<Image[]> {
  const { names, target, labels } = of;
  if (names.length === 0) throw classified("not-found", "no image name found: not found");
  const stored: Image[] = [];
  for (const name of names) stored.push(await storeImage(images, context, { name, target, labels }));
  return stored;
}

async function storeImage(
  images: ImageStore,
  context: RequestContext,
  image: Pick<Image, "name" | "target" | "labels">,
): Promise<Image> {
  for (;;) {
    context.signal.throwIfAborted();
    try {
      return await images.create(context, image);
    } catch (error) {
      if (!isErrorClass(error, "already-exists")) throw error;
    }
    try {
      return await images.update(context, image, []);
    } catch (error) {
      // Removed between the two: created again.
      if (!isErrorClass(error, "not-found")) throw error;
    }
  }
}
