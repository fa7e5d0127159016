import { momentText } from "@stevedore/base/moment";
import type { Sandbox } from "@stevedore/sdk/types";
import { anyTree, sortedMap } from "../any-tree.ts";
import { ctrCommand } from "../define.ts";
import { goJson, type JsonTree } from "../json.ts";

/** `ctr sandboxes info` */
export const command = ctrCommand({
  argsUsage: "<sandbox id>",
  flags: {},
  action: async ({ args, globals, io }) => {
    const [id] = args;
    if (id === undefined || id === "") throw new Error("sandbox id must be provided: invalid argument");
    await using session = await globals.connect();
    const sandbox = await session.client.sandboxes.get(session.context, id);
    io.stdout.write(`${goJson(sandboxTree(sandbox))}\n`);
    return 0;
  },
});

function sandboxTree({ id, labels, runtime, spec, sandboxer, createdAt, updatedAt, extensions }: Sandbox): JsonTree {
  return {
    ID: id,
    Labels: Object.keys(labels).length === 0 ? null : sortedMap(labels),
    Runtime: { Name: runtime.name, Options: runtime.options === undefined ? null : anyTree(runtime.options) },
    Spec: spec === undefined ? null : anyTree(spec),
    Sandboxer: sandboxer,
    CreatedAt: momentText(createdAt),
    UpdatedAt: momentText(updatedAt),
    Extensions: Object.fromEntries(Object.entries(extensions).map(([key, any]) => [key, anyTree(any)])),
  };
}
