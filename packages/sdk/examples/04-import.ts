/** Imports an archive (`bun 04-import.ts image.tar`) under a lease, so that no collection takes half of it, and unpacks it. */
import { createReadStream } from "node:fs";
import { defaultMatcher } from "@stevedore/oci/platform";
import { backgroundContext, connectClient, withLease } from "@stevedore/sdk";
import { importArchive } from "@stevedore/sdk/images/import";
import { unpackImage } from "@stevedore/sdk/images/unpack";

const address = process.env["CONTAINERD_ADDRESS"] ?? "/run/containerd/containerd.sock";

const context = backgroundContext({ namespace: process.env["CONTAINERD_NAMESPACE"] ?? "default" });

async function main(): Promise<void> {
  await using client = connectClient({ address });
  const [archive] = process.argv.slice(2);
  if (archive === undefined) throw new Error("name the archive to import");
  const matcher = defaultMatcher();
  await withLease(client.leases, context, async (leased) => {
    const source = createReadStream(archive);
    for (const { name, target } of await importArchive(client, leased, { source, platforms: matcher })) {
      await unpackImage(client, leased, { target, matcher, snapshotter: "", syncFs: false });
      process.stdout.write(`imported ${name} ${target.digest}\n`);
    }
  });
}

main().catch((error: unknown) => {
  process.stderr.write(`${String(error)}\n`);
  process.exitCode = 1;
});
