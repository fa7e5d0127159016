/** Lists the namespaces of a daemon with their labels; this call needs no namespace of its own. */
import { backgroundContext, connectClient } from "@stevedore/sdk";

const address = process.env["CONTAINERD_ADDRESS"] ?? "/run/containerd/containerd.sock";

async function main(): Promise<void> {
  await using client = connectClient({ address });
  const context = backgroundContext();
  for (const { name, labels } of await client.namespaces.list(context)) {
    process.stdout.write(`namespace ${name} ${JSON.stringify(labels)}\n`);
  }
}

main().catch((error: unknown) => {
  process.stderr.write(`${String(error)}\n`);
  process.exitCode = 1;
});
