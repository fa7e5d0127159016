/** Reads what happened before the program started, and where to read on the next time. Containerd keeps no log and is told apart. */
import { backgroundContext, connectClient, isErrorClass } from "@stevedore/sdk";

const address = process.env["CONTAINERD_ADDRESS"] ?? "/run/containerd/containerd.sock";

const context = backgroundContext({ namespace: process.env["CONTAINERD_NAMESPACE"] ?? "default" });

async function main(): Promise<void> {
  await using client = connectClient({ address });
  const name = `example-event-log-${process.pid}`;
  await client.namespaces.create(context, { name, labels: {} });
  await client.namespaces.delete(context, name);
  // A program that runs on keeps the last cursor, and begins behind it: { kind: "after", cursor }. With `follow` the loop goes on
  // over restarts of the daemon.
  const from = { kind: "since", time: new Date(Date.now() - 60_000) } as const;
  const filters = [`namespace=="${name}"`];
  try {
    for await (const { cursor, envelope } of client.eventLog.replay(context, { from, filters, follow: false })) {
      process.stdout.write(`event ${envelope.topic} at ${cursor === "" ? "no" : "a"} cursor\n`);
    }
  } catch (error) {
    if (!isErrorClass(error, "not-implemented")) throw error;
    process.stdout.write("this daemon keeps no log\n");
  }
}

main().catch((error: unknown) => {
  process.stderr.write(`${String(error)}\n`);
  process.exitCode = 1;
});
