import { MemorySnapshotRecords } from "./snapshot-records-memory.ts";
import { snapshotRecordsSuite } from "./snapshot-records-suite.ts";

snapshotRecordsSuite("in memory", () =>
  Promise.resolve({ records: new MemorySnapshotRecords(), [Symbol.asyncDispose]: () => Promise.resolve() }),
);
