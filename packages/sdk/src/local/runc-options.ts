/** Options of runc in the form its shim takes them. */
import { create, toBinary } from "@bufbuild/protobuf";
import type { AnyValue } from "@stevedore/core";

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
  const { OptionsSchema } = await import("@stevedore/wire/gen/containerd/runc/v1/options_pb");
  const message = create(OptionsSchema, {
    binaryName: request.binary,
    root: request.root,
    systemdCgroup: request.systemdCgroup,
  });
  return { typeUrl, value: toBinary(OptionsSchema, message) };
}

/** Task options that ask runc not to pivot into the root file system. */
export async function noPivotOptions(base: AnyValue | undefined): Promise<AnyValue> {
  const { fromBinary } = await import("@bufbuild/protobuf");
  const { OptionsSchema } = await import("@stevedore/wire/gen/containerd/runc/v1/options_pb");
  const message = base === undefined ? create(OptionsSchema) : fromBinary(OptionsSchema, base.value);
  message.noPivotRoot = true;
  return { typeUrl: "containerd.runc.v1.Options", value: toBinary(OptionsSchema, message) };
}

/** `runtimeoptions.v1.Options`: a config file for runtimes other than runc. */
export async function configPathOptions(path: string): Promise<AnyValue> {
  const { OptionsSchema } = await import("@stevedore/wire/gen/runtimeoptions/v1/api_pb");
  const message = create(OptionsSchema, { configPath: path });
  return { typeUrl: "runtimeoptions.v1.Options", value: toBinary(OptionsSchema, message) };
}
