/** Options of runc in the form its shim takes them. */

import type { AnyValue } from "@stevedore/core";
import { encodeMessage, makeMessage } from "@stevedore/wire/codec";

export interface RuncRequest {
  readonly binary: string;
  readonly root: string;
  readonly systemdCgroup: boolean;
}

/** `containerd.runc.v1.Options`. */
export async function runcOptions(request: RuncRequest): Promise<AnyValue> {
  const typeUrl = "containerd.runc.v1.Options";
  if (request.binary === "" && request.root === "" && !request.systemdCgroup)
    return { typeUrl, value: new Uint8Array() };
  const { OptionsSchema } = await import("@stevedore/wire/gen/light/containerd/runc/v1/options_pb");
  const message = makeMessage(OptionsSchema, {
    binaryName: request.binary,
    root: request.root,
    systemdCgroup: request.systemdCgroup,
  });
  return { typeUrl, value: encodeMessage(OptionsSchema, message) };
}

/** Task options that ask runc not to pivot into the root file system. */
export async function noPivotOptions(base: AnyValue | undefined): Promise<AnyValue> {
  const { decodeMessage } = await import("@stevedore/wire/codec");
  const { OptionsSchema } = await import("@stevedore/wire/gen/light/containerd/runc/v1/options_pb");
  const message = base === undefined ? makeMessage(OptionsSchema) : decodeMessage(OptionsSchema, base.value);
  message.noPivotRoot = true;
  return { typeUrl: "containerd.runc.v1.Options", value: encodeMessage(OptionsSchema, message) };
}

/** `runtimeoptions.v1.Options`: a config file for runtimes other than runc. */
export async function configPathOptions(path: string): Promise<AnyValue> {
  const { OptionsSchema } = await import("@stevedore/wire/gen/light/runtimeoptions/v1/api_pb");
  const message = makeMessage(OptionsSchema, { configPath: path });
  return { typeUrl: "runtimeoptions.v1.Options", value: encodeMessage(OptionsSchema, message) };
}
