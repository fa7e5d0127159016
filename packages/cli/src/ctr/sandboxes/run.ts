import { readFile } from "node:fs/promises";
import { classified, decodeText, messageOf, withContext } from "@stevedore/base";
import { isJsonObject, type JsonObject, parseJson } from "@stevedore/oci/json-lossless";
import { createSandbox } from "@stevedore/sdk/sandbox";
import { jsonAny, SPEC_TYPE_URL } from "@stevedore/sdk/spec/any";
import { stringFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";

/** What the peer's client passes on as runtime options when it has none. */
const NO_OPTIONS = { typeUrl: "google.protobuf.Empty", value: new Uint8Array() };

/** `ctr sandboxes run` */
export const command = ctrCommand({
  argsUsage: "[flags] <pod-config.json> <sandbox-id>",
  flags: { runtime: stringFlag("runtime", "runtime name", { initial: "io.containerd.runc.v2" }) },
  action: async ({ args, flags, globals, io, showHelp }) => {
    const [path, id] = args;
    if (path === undefined || id === undefined || args.length !== 2) {
      showHelp(io.stdout);
      return 0;
    }
    const spec = await readConfig(path);
    await using session = await globals.connect();
    const { client, context } = session;
    const runtime = { name: flags.runtime, options: NO_OPTIONS };
    const sandbox = await createSandbox(client, context, {
      id,
      runtime,
      // As Go writes a spec, whose version is always there.
      spec: jsonAny(SPEC_TYPE_URL, { ociVersion: "", ...spec }),
    }).catch((error: unknown) => {
      throw withContext("failed to create new sandbox", error);
    });
    await client
      .sandboxController(sandbox.sandboxer)
      .start(context, id)
      .catch((error: unknown) => {
        throw withContext("failed to start", error);
      });
    io.stdout.write(`${id}\n`);
    return 0;
  },
});

async function readConfig(path: string): Promise<JsonObject> {
  const bytes = await readFile(path).catch((error: unknown) => {
    const missing = error instanceof Error && "code" in error && error.code === "ENOENT";
    throw new Error(
      `failed to read sandbox config: ${missing ? `open ${path}: no such file or directory` : messageOf(error)}`,
    );
  });
  try {
    const parsed = parseJson(decodeText(bytes));
    if (isJsonObject(parsed)) return parsed;
  } catch (error) {
    throw withContext("failed to parse sandbox config", error);
  }
  throw classified("invalid-argument", `failed to parse sandbox config: ${path} holds no JSON object`);
}
