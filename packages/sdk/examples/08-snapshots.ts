/** Prepares a snapshot, commits it, takes a view of it, and removes all of it, children first. */
import { backgroundContext, connectClient } from "@stevedore/sdk";

const address = process.env["CONTAINERD_ADDRESS"] ?? "/run/containerd/containerd.sock";

const context = backgroundContext({ namespace: process.env["CONTAINERD_NAMESPACE"] ?? "default" });

async function main(): Promise<void> {
  await using client = connectClient({ address });
  const snapshotter = client.snapshotter("");
  const key = `example-snapshot-${process.pid}`;
  // Not held by a container, so without this label a collection would take them.
  const labels = { "containerd.io/gc.root": new Date().toISOString() };
  const prepared = await snapshotter.prepare(context, `${key}-active`, { parent: "", labels });
  process.stdout.write(`prepared ${prepared.map(({ type }) => type).join(" ")}\n`);
  await snapshotter.commit(context, key, { key: `${key}-active`, labels });
  const view = await snapshotter.view(context, `${key}-view`, { parent: key, labels });
  process.stdout.write(`view ${view.flatMap(({ options }) => options).includes("ro") ? "read-only" : "writable"}\n`);
  for await (const { name, kind } of snapshotter.walk(context, [])) {
    if (name.startsWith(key)) process.stdout.write(`snapshot ${kind}\n`);
  }
  await snapshotter.remove(context, `${key}-view`);
  await snapshotter.remove(context, key);
}

main().catch((error: unknown) => {
  process.stderr.write(`${String(error)}\n`);
  process.exitCode = 1;
});
