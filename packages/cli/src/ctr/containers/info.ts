import { decodeText } from "@stevedore/base";
import { momentText } from "@stevedore/base/moment";
import { parseJson } from "@stevedore/oci/json-lossless";
import type { AnyValue, Container } from "@stevedore/sdk/types";
import { boolFlag } from "../../kit/flags.ts";
import { anyTree, sortedMap } from "../any-tree.ts";
import { ctrCommand } from "../define.ts";
import { goJson, type JsonTree } from "../json.ts";

/** `ctr containers info` */
export const command = ctrCommand({
  argsUsage: "CONTAINER",
  flags: { spec: boolFlag("spec", "only display the spec") },
  action: async ({ args, flags, globals, io }) => {
    const [id] = args;
    if (id === undefined || id === "") throw new Error("container id must be provided: invalid argument");
    await using session = await globals.connect();
    const container = await session.client.containers.get(session.context, id);
    const spec = container.spec === undefined ? null : specTree(container.spec);
    io.stdout.write(`${goJson(flags.spec ? spec : containerTree(container, spec))}\n`);
    return 0;
  },
});

function specTree(spec: AnyValue): JsonTree {
  return parseJson(decodeText(spec.value));
}

function containerTree(container: Container, spec: JsonTree): JsonTree {
  const { options } = container.runtime;
  return {
    ID: container.id,
    Labels: sortedMap(container.labels),
    Image: container.image,
    Runtime: { Name: container.runtime.name, Options: options === undefined ? null : anyTree(options) },
    SnapshotKey: container.snapshotKey,
    Snapshotter: container.snapshotter,
    CreatedAt: momentText(container.createdAt),
    UpdatedAt: momentText(container.updatedAt),
    Extensions: Object.fromEntries(Object.entries(container.extensions).map(([key, any]) => [key, anyTree(any)])),
    SandboxID: container.sandbox,
    Spec: spec,
  };
}
