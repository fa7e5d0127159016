import { containersSuite } from "@stevedore/core/containers-suite";
import { contentSuite } from "@stevedore/core/content-suite";
import { imagesSuite } from "@stevedore/core/images-suite";
import { leasesSuite } from "@stevedore/core/leases-suite";
import { namespacesSuite } from "@stevedore/core/namespaces-suite";
import { inDefault } from "@stevedore/core/stores-fixture";
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
