/** Adds a process to a running container (`bun 06-exec.ts docker.io/library/busybox:latest`) and prints its output. */
import { defaultMatcher } from "@stevedore/oci/platform";
import { backgroundContext, connectClient } from "@stevedore/sdk";
import { createContainer } from "@stevedore/sdk/local/new-container";
import { runcOptions } from "@stevedore/sdk/local/runc-options";
import { NULL_IO, openTaskStreams } from "@stevedore/sdk/local/task-streams";
import { jsonAny, PROCESS_TYPE_URL } from "@stevedore/sdk/spec/any";
import { defaultDeviceRules, defaultSpec } from "@stevedore/sdk/spec/default-spec";
import { withDeviceRules, withImageProcess } from "@stevedore/sdk/spec/options";

const address = process.env["CONTAINERD_ADDRESS"] ?? "/run/containerd/containerd.sock";

const namespace = process.env["CONTAINERD_NAMESPACE"] ?? "default";
const context = backgroundContext({ namespace });

const COMMAND = ["sleep", "60"];

async function main(): Promise<void> {
  await using client = connectClient({ address });
  const [name] = process.argv.slice(2);
  if (name === undefined) throw new Error("name the image to run");
  const id = `exec-${process.pid}`;
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
    await client.tasks.create(context, { containerId: id, rootfs, io: NULL_IO, runtimePath: "" });
    await client.tasks.start(context, init);
    const process_ = { containerId: id, execId: "one" };
    await using streams = openTaskStreams({
      id: process_.execId,
      terminal: false,
      stdout: (bytes) => process.stdout.write(bytes),
      stderr: (bytes) => process.stderr.write(bytes),
    });
    const spec = jsonAny(PROCESS_TYPE_URL, {
      user: { uid: 0, gid: 0 },
      args: ["sh", "-c", "echo one more process"],
      env: ["PATH=/bin"],
      cwd: "/",
    });
    await client.tasks.exec(context, { ...process_, io: streams.io, spec });
    const exited = client.tasks.wait(context, process_);
    await client.tasks.start(context, process_);
    const { exitStatus } = await exited;
    await streams.drained;
    await client.tasks.delete(context, process_);
    process.stdout.write(`exec status ${exitStatus}\n`);
  } finally {
    const ended = client.tasks.wait(context, init);
    await client.tasks.kill(context, init, { number: 9, all: true });
    await ended;
    await client.tasks.delete(context, init);
    await client.containers.delete(context, id);
    await client.snapshotter(snapshotter).remove(context, snapshotKey);
  }
}

main().catch((error: unknown) => {
  process.stderr.write(`${String(error)}\n`);
  process.exitCode = 1;
});
