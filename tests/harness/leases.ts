import type { Daemon } from "./daemon.ts";

/**
 * Deletes the leases of a namespace: those of clients that were killed, and of uploads whose client may come back. They are kept on purpose, and would
 * otherwise count as left behind.
 */
export async function dropLeases(daemon: Daemon, namespace: string): Promise<void> {
  const listed = await daemon.ctr("ours", namespace, ["leases", "ls", "-q"]);
  const ids = listed.stdout.split("\n").filter((id) => id !== "");
  if (ids.length > 0) await daemon.ctr("ours", namespace, ["leases", "rm", ...ids]);
}
