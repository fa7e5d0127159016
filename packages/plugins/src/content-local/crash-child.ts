import { backgroundContext } from "@stevedore/base";
import { createLocalContent } from "./store.ts";

/**
 * A process for tests to kill: it writes blobs of half a mebibyte as fast as it can and prints each digest once its commit resolved.
 * Run as `bun crash-child.ts <folder> <prefix>`.
 */
async function main(): Promise<void> {
  const [, , directory = "", prefix = ""] = process.argv;
  const store = await createLocalContent({ directory });
  const context = backgroundContext();
  const lane = async (name: string): Promise<void> => {
    for (let i = 0; ; i++) {
      await using writer = await store.writer(context, { ref: `${prefix}-${name}-${i}` });
      for (let part = 0; part < 8; part++) await writer.write(Buffer.alloc(65_536, `${prefix}${name}${i}${part}`));
      process.stdout.write(`${await writer.commit(context)}\n`);
    }
  };
  await Promise.all(["a", "b", "c"].map(lane));
}

void main();
