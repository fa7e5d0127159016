import { encodeText } from "@stevedore/base/bytes";
import { findExecutable } from "@stevedore/os/spawn";
import { decodeMessage, encodeMessage, makeMessage } from "@stevedore/wire/codec";
import { RuntimeInfoSchema } from "@stevedore/wire/gen/light/containerd/types/introspection_pb";
import { AnySchema } from "@stevedore/wire/light/wkt";
import { childEnvironment } from "./environment.ts";
import { decodeOptions } from "./options.ts";
import { DEFAULT_RUNTIME, RuntimeClient } from "./runc/client.ts";

/** The runtime's name as the API knows it. */
export const RUNTIME_NAME = "io.containerd.runc.v2";

const FEATURES_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

export interface InfoOptions {
  /** An Any with runtime options, or nothing. */
  readonly stdin: Uint8Array;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly version: string;
  readonly revision: string;
}

/** What `-info` prints: a RuntimeInfo. @throws not-found without the runtime's binary */
export async function runtimeInfo(options: InfoOptions): Promise<Uint8Array> {
  const any = options.stdin.byteLength === 0 ? undefined : decodeMessage(AnySchema, options.stdin);
  const decoded = await decodeOptions(any);
  const command = decoded.binaryName === "" ? DEFAULT_RUNTIME : decoded.binaryName;
  const env = childEnvironment(options.env);
  const binary = findExecutable(command, env["PATH"] ?? "");
  const runtime = new RuntimeClient({ command: binary, root: "", log: "", systemdCgroup: false, env });
  // Runtimes before runc 1.1 do not know the command; everything else is still worth telling.
  const features = await runtime.features().catch(() => undefined);
  const info = makeMessage(RuntimeInfoSchema, {
    name: RUNTIME_NAME,
    version: { version: options.version, revision: options.revision },
    ...(any === undefined ? {} : { options: { typeUrl: any.typeUrl, value: any.value } }),
    ...(features === undefined ? {} : { features: { typeUrl: FEATURES_TYPE, value: encodeText(features.trim()) } }),
  });
  return encodeMessage(RuntimeInfoSchema, info);
}
