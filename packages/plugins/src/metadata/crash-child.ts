import { MetadataDatabase } from "./database.ts";
import { createSnapshotRecords } from "./snapshot-records.ts";

/**
 * A process for tests to kill: it creates records as fast as it can and prints each name once its promise resolved.
 * Run as `bun crash-child.ts <folder> <prefix>`.
 */
async function main(): Promise<void> {
  const [, , directory = "", prefix = ""] = process.argv;
  const database = await MetadataDatabase.open({ directory });
  const records = createSnapshotRecords(database, "crash");
  const lane = async (name: string): Promise<void> => {
    for (let i = 0; ; i++) {
      const key = `${prefix}-${name}-${i}`;
      await records.create(key, { kind: "active", parent: "" });
      process.stdout.write(`${key}\n`);
    }
  };
  await Promise.all(["a", "b", "c", "d"].map(lane));
}

void main();
