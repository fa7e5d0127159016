/** Fields of the daemon's events by their names in the proto files, for filters of subscribers. */
import { type DescMessage, fromBinary, type Message } from "@bufbuild/protobuf";
import * as container from "../gen/containerd/events/container_pb.ts";
import * as content from "../gen/containerd/events/content_pb.ts";
import * as image from "../gen/containerd/events/image_pb.ts";
import * as namespace from "../gen/containerd/events/namespace_pb.ts";
import * as sandbox from "../gen/containerd/events/sandbox_pb.ts";
import * as snapshot from "../gen/containerd/events/snapshot_pb.ts";
import * as task from "../gen/containerd/events/task_pb.ts";
import { type AnyBytes, typeNameOf } from "./typeurl.ts";

const SCHEMAS: ReadonlyMap<string, DescMessage> = new Map(
  [container, content, image, namespace, sandbox, snapshot, task]
    .flatMap((module): unknown[] => Object.values(module))
    .filter(isMessageSchema)
    .map((schema) => [schema.typeName, schema]),
);

function isMessageSchema(value: unknown): value is DescMessage {
  return typeof value === "object" && value !== null && "kind" in value && value.kind === "message";
}

/**
 * The text at a path of an event (`container_id`, `labels.k`, `runtime.name`), undefined for a field that is not there or
 * empty, for bytes that do not fit the type and for types that are no events of containerd.
 */
export function eventFieldValue(event: AnyBytes, path: readonly string[]): string | undefined {
  return eventFieldReader(event)(path);
}

/** As {@link eventFieldValue}, for several fields of one event: it is decoded once. */
export function eventFieldReader(event: AnyBytes): (path: readonly string[]) => string | undefined {
  const schema = SCHEMAS.get(typeNameOf(event.typeUrl));
  if (schema === undefined) return () => undefined;
  let message: Message;
  try {
    message = fromBinary(schema, event.value);
  } catch {
    // A filter over what cannot be read selects nothing.
    return () => undefined;
  }
  return (path) => valueAt(schema, message, path);
}

function valueAt(schema: DescMessage, message: Message, path: readonly string[]): string | undefined {
  const [name, ...rest] = path;
  const field = schema.fields.find((candidate) => candidate.name === name);
  if (field === undefined) return undefined;
  const value: unknown = Reflect.get(message, field.localName);
  if (value === undefined) return undefined;
  if (field.fieldKind === "message") return isMessage(value) ? valueAt(field.message, value, rest) : undefined;
  if (field.fieldKind === "map") {
    const entry: unknown = typeof value === "object" && value !== null ? Reflect.get(value, rest.join(".")) : undefined;
    return typeof entry === "string" ? entry : undefined;
  }
  if (field.fieldKind !== "scalar" || value === "") return undefined;
  return typeof value === "string" || typeof value === "number" || typeof value === "bigint"
    ? String(value)
    : undefined;
}

function isMessage(value: unknown): value is Message {
  return typeof value === "object" && value !== null && "$typeName" in value;
}
