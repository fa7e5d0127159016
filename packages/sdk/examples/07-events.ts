/** Follows events until the first of a topic comes. Here the program causes it itself; ending the loop ends the call. */
import { setTimeout } from "node:timers/promises";
import { backgroundContext, type Client, connectClient } from "@stevedore/sdk";

const address = process.env["CONTAINERD_ADDRESS"] ?? "/run/containerd/containerd.sock";

const context = backgroundContext({ namespace: process.env["CONTAINERD_NAMESPACE"] ?? "default" });

async function main(): Promise<void> {
  await using client = connectClient({ address });
  const over = new AbortController();
  const causing = cause(client, over.signal);
  for await (const { topic } of client.events.subscribe(context, [`topic=="/namespaces/create"`])) {
    process.stdout.write(`event ${topic}\n`);
    break;
  }
  over.abort();
  await causing;
}

/** Makes and removes a namespace again and again: a subscription says nothing before its first event. */
async function cause(client: Client, over: AbortSignal): Promise<void> {
  const name = `example-events-${process.pid}`;
  while (!over.aborted) {
    await client.namespaces.create(context, { name, labels: {} });
    await client.namespaces.delete(context, name);
    await setTimeout(50);
  }
}

main().catch((error: unknown) => {
  process.stderr.write(`${String(error)}\n`);
  process.exitCode = 1;
});
