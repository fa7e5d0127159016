/**
 * What a checkpoint may ask of this machine. It names a runtime, its options and a whole spec, which together can run any
 * program as root; one that came from elsewhere is a stranger's word, and gets what an image gets: a container.
 */
import { classified, decodeText, encodeText } from "@stevedore/base";
import type { AnyValue, Image } from "@stevedore/core";
import { isReservedLabel } from "@stevedore/oci/annotations";
import { encodeJson, isJsonObject, type JsonObject, type JsonValue, parseJson } from "@stevedore/oci/json-lossless";
import { CHECKPOINT_LABEL } from "./blobs.ts";

/** Whether a checkpoint was made on this machine, or its operator vouches for it. Nothing that is fetched or imported can set a label. */
export function isTrusted(image: Image): boolean {
  return image.labels[CHECKPOINT_LABEL] === "true";
}

/** How to accept what is refused. */
function refusal(image: Image, what: string): Error {
  return classified(
    "permission-denied",
    `restore ${image.name}: this checkpoint was not made here and ${what}; if you trust who made it: ` +
      `ctr images label ${image.name} ${CHECKPOINT_LABEL}=true: permission denied`,
  );
}

const RUNTIME_NAME = /^io\.containerd\.[a-z0-9]+(?:[._-][a-z0-9]+)*\.v\d+$/;

/** @throws permission-denied for a runtime that is a path, or options that name programs and folders */
export async function requireHarmlessRuntime(
  image: Image,
  runtime: { readonly name: string; readonly options?: AnyValue },
): Promise<void> {
  if (isTrusted(image)) return;
  if (!RUNTIME_NAME.test(runtime.name)) throw refusal(image, `names the runtime ${JSON.stringify(runtime.name)}`);
  const { options } = runtime;
  if (options === undefined || options.value.byteLength === 0) return;
  if (!options.typeUrl.endsWith("containerd.runc.v1.Options")) {
    throw refusal(image, `has options of its own for its runtime (${options.typeUrl})`);
  }
  const [{ decodeMessage }, { OptionsSchema }] = await Promise.all([
    import("@stevedore/wire/codec"),
    import("@stevedore/wire/gen/light/containerd/runc/v1/options_pb"),
  ]);
  const found = decodeMessage(OptionsSchema, options.value);
  for (const name of ["binaryName", "root", "shimCgroup", "criuImagePath", "criuWorkPath", "taskApiAddress"] as const) {
    if (found[name] !== "") throw refusal(image, `sets its runtime's ${name} to ${JSON.stringify(found[name])}`);
  }
}

/** Annotations that bring devices (CDI); others that steer are in the reserved namespaces. */
const STEERING = ["cdi.k8s.io/", "run.oci.", "org.systemd.property."];

/**
 * The spec of a checkpoint as it may be used: as it is when the checkpoint is trusted, else without annotations that
 * steer a runtime.
 *
 * @throws permission-denied for programs, files, devices and namespaces of the host in a stranger's spec
 */
export function harmlessSpec(image: Image, spec: AnyValue): AnyValue {
  if (isTrusted(image)) return spec;
  const tree = parseJson(decodeText(spec.value));
  if (!isJsonObject(tree)) throw classified("invalid-argument", `restore ${image.name}: its spec is no object`);
  if (filled(tree["hooks"])) throw refusal(image, "has hooks, which are programs of this machine");
  for (const mount of list(tree["mounts"])) {
    const { type, source, destination, options } = mount;
    const binds = values(options).some((option) => option === "bind" || option === "rbind");
    if (type === "bind" || binds) {
      throw refusal(image, `mounts ${text(source)} of this machine at ${text(destination)}`);
    }
  }
  const linux = isJsonObject(tree["linux"]) ? tree["linux"] : {};
  if (list(linux["devices"]).length > 0) throw refusal(image, "wants devices of this machine");
  for (const { type, path } of list(linux["namespaces"])) {
    if (path !== undefined && path !== "") throw refusal(image, `joins the ${text(type)} namespace ${text(path)}`);
  }
  const root = isJsonObject(tree["root"]) ? tree["root"] : {};
  if (root["path"] !== undefined && root["path"] !== "rootfs") {
    throw refusal(image, `has its root file system at ${text(root["path"])}`);
  }
  const annotations = isJsonObject(tree["annotations"]) ? tree["annotations"] : {};
  const kept = Object.fromEntries(
    Object.entries(annotations).filter(
      ([key]) => !isReservedLabel(key) && !STEERING.some((prefix) => key.startsWith(prefix)),
    ),
  );
  if (Object.keys(kept).length === Object.keys(annotations).length) return spec;
  return { typeUrl: spec.typeUrl, value: encodeText(encodeJson({ ...tree, annotations: kept })) };
}

function text(value: JsonValue | undefined): string {
  return value === undefined ? "nothing" : encodeJson(value);
}

function filled(value: JsonValue | undefined): boolean {
  return isJsonObject(value) && Object.values(value).some((hooks) => Array.isArray(hooks) && hooks.length > 0);
}

function list(value: JsonValue | undefined): readonly JsonObject[] {
  return Array.isArray(value) ? value.filter(isJsonObject) : [];
}

function values(value: JsonValue | undefined): readonly JsonValue[] {
  return Array.isArray(value) ? value : [];
}
