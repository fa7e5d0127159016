import { type DescMessage, fromBinary, type Message, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { classified, messageOf } from "@stevedore/base";

/**
 * Any values: which type a URL names, and how to read it. Between client and store they stay bytes; only who needs the
 * content decodes it. Descriptors are loaded when a type is first asked for.
 */

/** A protobuf Any, as bytes. */
export interface AnyBytes {
  readonly typeUrl: string;
  readonly value: Uint8Array;
}

/** URLs of values that travel as JSON: Go types that containerd registers by name, not protobuf messages. */
export const JsonTypeUrl = {
  spec: "types.containerd.io/opencontainers/runtime-spec/1/Spec",
  process: "types.containerd.io/opencontainers/runtime-spec/1/Process",
  linuxResources: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources",
  windowsResources: "types.containerd.io/opencontainers/runtime-spec/1/WindowsResources",
  features: "types.containerd.io/opencontainers/runtime-spec/1/features/Features",
  /** CRI's record of a container and of a sandbox, in their extensions. */
  criContainerMetadata: "github.com/containerd/cri/pkg/store/container/Metadata",
  criSandboxMetadata: "github.com/containerd/cri/pkg/store/sandbox/Metadata",
} as const;

const JSON_TYPES: ReadonlySet<string> = new Set(Object.values(JsonTypeUrl));

/** Whether values of this URL are JSON text. */
export function isJsonTypeUrl(typeUrl: string): boolean {
  return JSON_TYPES.has(typeUrl);
}

/**
 * The full name in a type URL. The peers send bare names (`containerd.runc.v1.Options`); other protobuf libraries put
 * `type.googleapis.com/` in front.
 */
export function typeNameOf(typeUrl: string): string {
  return typeUrl.slice(typeUrl.lastIndexOf("/") + 1);
}

/** An Any as the peers write it: the URL is the bare full name. */
export function packAny<D extends DescMessage>(schema: D, message: MessageShape<D>): AnyBytes {
  return { typeUrl: schema.typeName, value: toBinary(schema, message) };
}

/** Whether the value is a message of `schema`. */
export function isAny(any: AnyBytes, schema: DescMessage): boolean {
  return typeNameOf(any.typeUrl) === schema.typeName;
}

/**
 * The message in an Any.
 *
 * @throws invalid-argument when it is of another type, or its bytes are no such message.
 */
export function unpackAny<D extends DescMessage>(schema: D, any: AnyBytes): MessageShape<D> {
  if (!isAny(any, schema)) {
    const found = JSON.stringify(any.typeUrl);
    throw classified("invalid-argument", `type url ${found} is not ${schema.typeName}: invalid argument`);
  }
  return decode(schema, any.value);
}

function decode<D extends DescMessage>(schema: D, value: Uint8Array): MessageShape<D> {
  try {
    return fromBinary(schema, value);
  } catch (cause) {
    throw classified("invalid-argument", `decode ${schema.typeName}: ${messageOf(cause)}: invalid argument`, { cause });
  }
}

type Load = () => Promise<DescMessage>;

/** Messages that travel in an Any, by full name. */
const LOADERS: ReadonlyMap<string, Load> = new Map<string, Load>([
  ...names(
    "containerd.events",
    ["ContainerCreate", "ContainerUpdate", "ContainerDelete"],
    () => import("../gen/containerd/events/container_pb.ts"),
  ),
  ...names(
    "containerd.events",
    ["ContentCreate", "ContentDelete"],
    () => import("../gen/containerd/events/content_pb.ts"),
  ),
  ...names(
    "containerd.events",
    ["NamespaceCreate", "NamespaceUpdate", "NamespaceDelete"],
    () => import("../gen/containerd/events/namespace_pb.ts"),
  ),
  ...names(
    "containerd.events",
    ["SandboxCreate", "SandboxStart", "SandboxExit"],
    () => import("../gen/containerd/events/sandbox_pb.ts"),
  ),
  ...names(
    "containerd.events",
    ["SnapshotPrepare", "SnapshotCommit", "SnapshotRemove"],
    () => import("../gen/containerd/events/snapshot_pb.ts"),
  ),
  ...names(
    "containerd.events",
    [
      "TaskCreate",
      "TaskStart",
      "TaskDelete",
      "TaskIO",
      "TaskExit",
      "TaskOOM",
      "TaskExecAdded",
      "TaskExecStarted",
      "TaskPaused",
      "TaskResumed",
      "TaskCheckpointed",
    ],
    () => import("../gen/containerd/events/task_pb.ts"),
  ),
  ...names(
    "containerd.services.images.v1",
    ["ImageCreate", "ImageUpdate", "ImageDelete"],
    () => import("../gen/containerd/events/image_pb.ts"),
  ),
  ...names(
    "containerd.runc.v1",
    ["Options", "CheckpointOptions", "ProcessDetails"],
    () => import("../gen/containerd/runc/v1/options_pb.ts"),
  ),
  ...names("runtimeoptions.v1", ["Options"], () => import("../gen/runtimeoptions/v1/api_pb.ts")),
  ...names("io.containerd.cgroups.v1", ["Metrics"], () => import("../gen/io/containerd/cgroups/v1/metrics_pb.ts")),
  ...names("io.containerd.cgroups.v2", ["Metrics"], () => import("../gen/io/containerd/cgroups/v2/metrics_pb.ts")),
  ...names(
    "containerd.types",
    ["RuntimeRequest", "RuntimeVersion", "RuntimeInfo"],
    () => import("../gen/containerd/types/introspection_pb.ts"),
  ),
  ...names(
    "containerd.types.transfer",
    ["ImageStore", "UnpackConfiguration", "ImageReference"],
    () => import("../gen/containerd/types/transfer/imagestore_pb.ts"),
  ),
  ...names(
    "containerd.types.transfer",
    ["ImageImportStream", "ImageExportStream"],
    () => import("../gen/containerd/types/transfer/importexport_pb.ts"),
  ),
  ...names(
    "containerd.types.transfer",
    ["OCIRegistry", "RegistryResolver", "AuthRequest", "AuthResponse"],
    () => import("../gen/containerd/types/transfer/registry_pb.ts"),
  ),
  ...names("containerd.types.transfer", ["Progress"], () => import("../gen/containerd/types/transfer/progress_pb.ts")),
  ...names(
    "containerd.types.transfer",
    ["ContainerPath"],
    () => import("../gen/containerd/types/transfer/container_pb.ts"),
  ),
  ...names(
    "containerd.types.transfer",
    ["Data", "WindowUpdate", "ReadStream", "WriteStream"],
    () => import("../gen/containerd/types/transfer/streaming_pb.ts"),
  ),
  ...names(
    "containerd.services.streaming.v1",
    ["StreamInit"],
    () => import("../gen/containerd/services/streaming/v1/streaming_pb.ts"),
  ),
  ...names("google.rpc", ["Status"], () => import("../gen/google/rpc/status_pb.ts")),
  ...["Any", "Empty", "Timestamp", "Duration", "FieldMask", "Struct", "StringValue"].map((name): [string, Load] => [
    `google.protobuf.${name}`,
    async () => schemaIn(await import("@bufbuild/protobuf/wkt"), name),
  ]),
]);

function names(pkg: string, messages: readonly string[], load: () => Promise<object>): [string, Load][] {
  return messages.map((name) => [`${pkg}.${name}`, async () => schemaIn(await load(), name)]);
}

function schemaIn(module: object, name: string): DescMessage {
  const found: unknown = Reflect.get(module, `${name}Schema`);
  if (!isDescMessage(found)) throw classified("internal", `load schema of ${name}: not exported`);
  return found;
}

function isDescMessage(value: unknown): value is DescMessage {
  return typeof value === "object" && value !== null && Reflect.get(value, "kind") === "message";
}

/** Full names of all messages that {@link schemaFor} knows. */
export function knownTypes(): IterableIterator<string> {
  return LOADERS.keys();
}

/** The description of the message a URL names; undefined for JSON types and for what is not known. */
export async function schemaFor(typeUrl: string): Promise<DescMessage | undefined> {
  return LOADERS.get(typeNameOf(typeUrl))?.();
}

/** What an Any holds: a message, JSON text, or something nobody told us about. */
export type UnpackedAny =
  | { readonly kind: "message"; readonly schema: DescMessage; readonly message: Message }
  | { readonly kind: "json"; readonly text: string }
  | { readonly kind: "unknown" };

/**
 * The content of an Any of whatever type.
 *
 * @throws invalid-argument when the bytes do not fit the type.
 */
export async function unpackAnything(any: AnyBytes): Promise<UnpackedAny> {
  if (isJsonTypeUrl(any.typeUrl)) return { kind: "json", text: new TextDecoder().decode(any.value) };
  const schema = await schemaFor(any.typeUrl);
  if (schema === undefined) return { kind: "unknown" };
  return { kind: "message", schema, message: decode(schema, any.value) };
}
