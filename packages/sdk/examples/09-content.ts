/** Ingests a blob, reads it back by its digest and removes it. */
import { backgroundContext, connectClient, withLease } from "@stevedore/sdk";

const address = process.env["CONTAINERD_ADDRESS"] ?? "/run/containerd/containerd.sock";

const context = backgroundContext({ namespace: process.env["CONTAINERD_NAMESPACE"] ?? "default" });

async function main(): Promise<void> {
  await using client = connectClient({ address });
  await withLease(client.leases, context, async (leased) => {
    const text = `example ${process.pid}`;
    await using writer = await client.content.writer(leased, { ref: `example-${process.pid}` });
    await writer.write(new TextEncoder().encode(text));
    const digest = await writer.commit(leased, { size: text.length });
    await using reader = await client.content.open(leased, digest);
    const read = new TextDecoder().decode(await reader.readAt(0, reader.size));
    process.stdout.write(`content ${digest} ${read === text ? "is what was written" : "differs"}\n`);
    await client.content.delete(leased, digest);
  });
}

main().catch((error: unknown) => {
  process.stderr.write(`${String(error)}\n`);
  process.exitCode = 1;
});
