import { snapshotRecordsSuite } from "@stevedore/core/snapshot-records-suite";
import { temporaryDatabase } from "./fixture.ts";
import { createSnapshotRecords } from "./snapshot-records.ts";

snapshotRecordsSuite("in the metadata file", async () => {
  const fixture = await temporaryDatabase();
  return {
    records: createSnapshotRecords(fixture.database, "overlayfs"),
    [Symbol.asyncDispose]: () => fixture[Symbol.asyncDispose](),
  };
});
