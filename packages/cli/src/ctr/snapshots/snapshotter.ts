import type { Snapshotter } from "@stevedore/sdk/types";
import type { Session } from "../globals.ts";

/** The snapshotter that `ctr snapshots --snapshotter` names. */
export function snapshotterOf(
  session: Session,
  parents: ReadonlyMap<string, Readonly<Record<string, unknown>>>,
): Snapshotter {
  return session.client.snapshotter(snapshotterName(parents));
}

/** The name given to `ctr snapshots --snapshotter`; "" for the default. */
export function snapshotterName(parents: ReadonlyMap<string, Readonly<Record<string, unknown>>>): string {
  const name = parents.get("snapshots")?.["snapshotter"];
  return typeof name === "string" ? name : "";
}
