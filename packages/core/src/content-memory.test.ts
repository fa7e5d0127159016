import { backgroundContext } from "@stevedore/base";
import { MemoryContentStore } from "./content-memory.ts";
import { contentSuite } from "./content-suite.ts";

contentSuite(
  "in memory",
  () =>
    Promise.resolve({
      store: new MemoryContentStore(),
      context: backgroundContext(),
      [Symbol.asyncDispose]: () => Promise.resolve(),
    }),
  { labels: false, missing: (digest) => `content ${digest}: not found` },
);
