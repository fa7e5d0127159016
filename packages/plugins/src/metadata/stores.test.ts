import { expect, test } from "bun:test";
import type { RequestContext } from "@stevedore/base";
import type { ContentWriter, WriterOptions } from "@stevedore/core";
import { containersSuite } from "@stevedore/core/containers-suite";
import { MemoryContentStore } from "@stevedore/core/content-memory";
import { contentSuite } from "@stevedore/core/content-suite";
import { imagesSuite } from "@stevedore/core/images-suite";
import { leasesSuite } from "@stevedore/core/leases-suite";
import { namespacesSuite } from "@stevedore/core/namespaces-suite";
import { inDefault } from "@stevedore/core/stores-fixture";
import { digestOf } from "@stevedore/oci/digest";
import { temporaryStore } from "./fixture.ts";

const make = (): ReturnType<typeof temporaryStore> => temporaryStore();

imagesSuite("metadata", make);
containersSuite("metadata", make);
leasesSuite("metadata", make);
namespacesSuite("metadata", make);

for (const sharingPolicy of ["shared", "isolated"] as const) {
  contentSuite(
    `metadata, ${sharingPolicy}`,
    async () => {
      const fixture = await temporaryStore({ sharingPolicy });
      return {
        store: fixture.content,
        context: inDefault,
        [Symbol.asyncDispose]: () => fixture[Symbol.asyncDispose](),
      };
    },
    { labels: true, missing: (digest) => `content digest ${digest}: not found` },
  );
}

/** A backend of which nobody hears a digest before the commit, as one in another process may be. */
class LateDigests extends MemoryContentStore {
  override async writer(context: RequestContext, options: WriterOptions): Promise<ContentWriter> {
    const writer = await super.writer(context, options);
    return { ...writer, digest: () => "", [Symbol.asyncDispose]: async () => writer[Symbol.asyncDispose]() };
  }
}

test("the digest that a commit answers is recorded, expected or not", async () => {
  await using store = await temporaryStore({ content: new LateDigests() });
  for (const [ref, expects] of [
    ["told", true],
    ["untold", false],
  ] as const) {
    const bytes = new TextEncoder().encode(ref);
    const digest = digestOf(bytes);
    await using writer = await store.content.writer(inDefault, { ref });
    await writer.write(bytes);
    expect(await writer.commit(inDefault, expects ? { expected: digest } : {})).toBe(digest);
    expect(await store.content.info(inDefault, digest)).toMatchObject({ digest, size: bytes.byteLength });
  }
});
