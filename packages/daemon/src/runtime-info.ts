/** What a runtime says of itself, asked of its shim binary. */
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { AnySchema } from "@bufbuild/protobuf/wkt";
import { classified, messageOf, withContext } from "@stevedore/base";
import type { AnyValue } from "@stevedore/core";
import { pickEnvironment, runCommand } from "@stevedore/os/spawn";
import { resolveRuntime } from "@stevedore/plugins/shim-manager/runtime-path";
import { RuntimeInfoSchema, RuntimeRequestSchema } from "@stevedore/wire/gen/containerd/types/introspection_pb";
import { typeNameOf } from "@stevedore/wire/typeurl";

/**
 * Runs `<shim> -info` for a RuntimeRequest.
 * @throws not-implemented for another kind of request; unknown when the shim is missing or fails
 */
export async function runtimeInfo(request: AnyValue, signal: AbortSignal): Promise<AnyValue> {
  if (typeNameOf(request.typeUrl) !== RuntimeRequestSchema.typeName) {
    throw classified("not-implemented", `unknown request type ${request.typeUrl}: not implemented`);
  }
  const { runtimePath, options } = fromBinary(RuntimeRequestSchema, request.value);
  let shim: string;
  try {
    shim = await resolveRuntime(runtimePath, { searchPath: process.env["PATH"] ?? "", self: process.execPath });
  } catch (error) {
    throw withContext("failed to resolve runtime path", error);
  }
  const ran = await runCommand([shim, "-info"], {
    input: options === undefined ? new Uint8Array() : toBinary(AnySchema, options),
    env: pickEnvironment(["PATH"]),
    signal,
  });
  if (ran.code !== 0) {
    const said = Buffer.from(ran.stderr).toString();
    throw classified(
      "unknown",
      `failed to run [${shim} -info]: exit status ${ran.code} (stderr: ${JSON.stringify(said)})`,
    );
  }
  try {
    fromBinary(RuntimeInfoSchema, ran.stdout);
  } catch (error) {
    throw classified("unknown", `failed to unmarshal stdout from [${shim} -info]: ${messageOf(error)}`);
  }
  return { typeUrl: RuntimeInfoSchema.typeName, value: ran.stdout };
}
