/** Connects and says which daemon answers. Nothing is dialled before the first call. */
import { backgroundContext, connectClient } from "@stevedore/sdk";

const address = process.env["CONTAINERD_ADDRESS"] ?? "/run/containerd/containerd.sock";

async function main(): Promise<void> {
  await using client = connectClient({ address });
  const { version, revision } = await client.version(backgroundContext());
  process.stdout.write(`version ${version} revision ${revision}\n`);
}

main().catch((error: unknown) => {
  process.stderr.write(`${String(error)}\n`);
  process.exitCode = 1;
});
