/** Runs a container of an image (`bun 05-run.ts docker.io/library/busybox:latest`) to its end and prints its output. */
import { defaultMatcher } from "@stevedore/oci/platform";
import { backgroundContext, connectClient } from "@stevedore/sdk";
import { createContainer } from "@stevedore/sdk/local/new-container";
import { runcOptions } from "@stevedore/sdk/local/runc-options";
import { openTaskStreams } from "@stevedore/sdk/local/task-streams";
import { defaultDeviceRules, defaultSpec } from "@stevedore/sdk/spec/default-spec";
import { withDeviceRules, withImageProcess } from "@stevedore/sdk/spec/options";

const address = process.env["CONTAINERD_ADDRESS"] ?? "/run/containerd/containerd.sock";

const namespace = process.env["CONTAINERD_NAMESPACE"] ?? "default";
const context = backgroundContext({ namespace });

const COMMAND = ["sh", "-c", "echo hello from the container; exit 3"];

async function main(): Promise<void> {
  await using client = connectClient({ address });
  const [name] = process.argv.slice(2);
  if (name === undefined) throw new Error("name the image to run");
  const id = `run-${process.pid}`;
  const { snapshotter, snapshotKey } = await createContainer(client, context, {
    id,
    image: { name, matcher: defaultMatcher() },
    snapshotter: "",
    labels: {},
    runtime: {
      name: "io.containerd.runc.v2",
      options: await runcOptions({ binary: "", root: "", systemdCgroup: false }),
    },
    spec: async () => {
      const spec = defaultSpec({ id, namespace });
      withDeviceRules(spec, defaultDeviceRules());
      return withImageProcess(spec, { env: [], entrypoint: [], cmd: [], workingDir: "" }, COMMAND);
    },
  });
  const rootfs = await client.snapshotter(snapshotter).mounts(context, snapshotKey);
  const init = { containerId: id, execId: "" };
  try {
    await using streams = openTaskStreams({
      id,
      terminal: false,
      stdout: (bytes) => process.stdout.write(bytes),
      stderr: (bytes) => process.stderr.write(bytes),
    });
    await client.tasks.create(context, { containerId: id, rootfs, io: streams.io, runtimePath: "" });
    // Asked for before the start, so that a process that is quick is not missed.
    const exited = client.tasks.wait(context, init);
    await client.tasks.start(context, init);
    const { exitStatus } = await exited;
    await streams.drained;
    await client.tasks.delete(context, init);
    process.stdout.write(`exit status ${exitStatus}\n`);
  } finally {
    await client.containers.delete(context, id);
    await client.snapshotter(snapshotter).remove(context, snapshotKey);
  }
}

main().catch((error: unknown) => {
  process.stderr.write(`${String(error)}\n`);
  process.exitCode = 1;
});
