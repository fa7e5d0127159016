/** Options of runtimes as fields, for people: those of runc and those that name a configuration file. */
import type { JsonObject, JsonValue } from "@stevedore/oci/json-lossless";

interface Any {
  readonly typeUrl: string;
  readonly value: Uint8Array;
}

/** The fields that are set, by their names in the protocol and in its order; undefined without options or for a type nobody here knows. */
export async function runtimeOptionFields(any: Any | undefined): Promise<JsonObject | undefined> {
  if (any === undefined) return undefined;
  const type = any.typeUrl.slice(any.typeUrl.lastIndexOf("/") + 1);
  if (type === "containerd.runc.v1.Options") return setFields(await runcFields(any.value));
  if (type === "runtimeoptions.v1.Options") return setFields(await genericFields(any.value));
  return undefined;
}

type Fields = readonly (readonly [name: string, value: JsonValue])[];

async function runcFields(bytes: Uint8Array): Promise<Fields> {
  const [{ OptionsSchema }, { decodeMessage }] = await Promise.all([
    import("@stevedore/wire/gen/light/containerd/runc/v1/options_pb"),
    import("@stevedore/wire/codec"),
  ]);
  const options = decodeMessage(OptionsSchema, bytes);
  return [
    ["no_pivot_root", options.noPivotRoot],
    ["no_new_keyring", options.noNewKeyring],
    ["shim_cgroup", options.shimCgroup],
    ["io_uid", options.ioUid],
    ["io_gid", options.ioGid],
    ["binary_name", options.binaryName],
    ["root", options.root],
    ["systemd_cgroup", options.systemdCgroup],
    ["criu_image_path", options.criuImagePath],
    ["criu_work_path", options.criuWorkPath],
    ["task_api_address", options.taskApiAddress],
    ["task_api_version", options.taskApiVersion],
  ];
}

async function genericFields(bytes: Uint8Array): Promise<Fields> {
  const [{ OptionsSchema }, { decodeMessage }] = await Promise.all([
    import("@stevedore/wire/gen/light/runtimeoptions/v1/api_pb"),
    import("@stevedore/wire/codec"),
  ]);
  const { typeUrl, configPath, configBody } = decodeMessage(OptionsSchema, bytes);
  return [
    ["type_url", typeUrl],
    ["config_path", configPath],
    ["config_body", Buffer.from(configBody).toString("base64")],
  ];
}

function setFields(fields: Fields): JsonObject {
  return Object.fromEntries(fields.filter(([, value]) => value !== "" && value !== false && value !== 0));
}
