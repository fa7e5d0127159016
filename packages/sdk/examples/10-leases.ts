/** Makes a lease, puts a snapshot under it, lists what it holds, and deletes it with what only it held. */
import { backgroundContext, connectClient, isErrorClass } from "@stevedore/sdk";

const address = process.env["CONTAINERD_ADDRESS"] ?? "/run/containerd/containerd.sock";

const context = backgroundContext({ namespace: process.env["CONTAINERD_NAMESPACE"] ?? "default" });

async function main(): Promise<void> {
  await using client = connectClient({ address });
  const { id } = await client.leases.create(context, { id: `example-${process.pid}`, labels: {} });
  const leased = { ...context, lease: id };
  const key = `example-lease-${process.pid}`;
  await client.snapshotter("").prepare(leased, key, { parent: "" });
  for (const { type } of await client.leases.listResources(context, id)) process.stdout.write(`lease holds ${type}\n`);
  await client.leases.delete(context, id, { sync: true });
  const gone = await client
    .snapshotter("")
    .stat(context, key)
    .then(
      () => false,
      (error: unknown) => isErrorClass(error, "not-found"),
    );
  process.stdout.write(gone ? "collected\n" : "still there\n");
}

main().catch((error: unknown) => {
  process.stderr.write(`${String(error)}\n`);
  process.exitCode = 1;
});
