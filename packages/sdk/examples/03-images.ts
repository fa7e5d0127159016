/** Lists images, then sets one label on each: the mask names the one label, so the others stay. */
import { backgroundContext, connectClient } from "@stevedore/sdk";

const address = process.env["CONTAINERD_ADDRESS"] ?? "/run/containerd/containerd.sock";

const context = backgroundContext({ namespace: process.env["CONTAINERD_NAMESPACE"] ?? "default" });

async function main(): Promise<void> {
  await using client = connectClient({ address });
  for (const image of await client.images.list(context, [])) {
    const labels = { ...image.labels, "example.com/seen": "yes" };
    const updated = await client.images.update(context, { ...image, labels }, ["labels.example.com/seen"]);
    process.stdout.write(
      `image ${updated.name} ${updated.target.digest} ${updated.labels["example.com/seen"] ?? "not labelled"}\n`,
    );
  }
}

main().catch((error: unknown) => {
  process.stderr.write(`${String(error)}\n`);
  process.exitCode = 1;
});
