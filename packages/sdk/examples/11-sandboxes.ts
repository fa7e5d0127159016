/** Makes a sandbox, shows what its shim says of it, and removes it. Containers join it by naming it as their `sandbox`. */
import { backgroundContext, connectClient } from "@stevedore/sdk";
import { createSandbox, deleteSandbox } from "@stevedore/sdk/sandbox";

const address = process.env["CONTAINERD_ADDRESS"] ?? "/run/containerd/containerd.sock";
const context = backgroundContext({ namespace: process.env["CONTAINERD_NAMESPACE"] ?? "default" });

async function main(): Promise<void> {
  await using client = connectClient({ address });
  const sandbox = await createSandbox(client, context, {
    id: `pod-${process.pid}`,
    runtime: { name: "io.containerd.runc.v2" },
    labels: { app: "example" },
  });
  const controller = client.sandboxController(sandbox.sandboxer);
  try {
    const { address: taskApi } = await controller.start(context, sandbox.id);
    const { state } = await controller.status(context, sandbox.id, { verbose: false });
    process.stdout.write(`${sandbox.sandboxer} ${state} ${taskApi.startsWith("ttrpc+unix://")}\n`);
    await controller.stop(context, sandbox.id, { timeoutSecs: 0 });
    const { exitStatus } = await controller.wait(context, sandbox.id);
    process.stdout.write(`exit status ${exitStatus}\n`);
  } finally {
    await deleteSandbox(client, context, sandbox);
  }
  for (const { id } of await client.sandboxes.list(context, ["labels.app==example"]))
    process.stdout.write(`${id} is left\n`);
}

main().catch((error: unknown) => {
  process.stderr.write(`${String(error)}\n`);
  process.exitCode = 1;
});
