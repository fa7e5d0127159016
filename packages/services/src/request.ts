import { create, type DescMessage, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { type Announcement, classified, type RequestContext } from "@stevedore/base";
import type { EventExchange, FieldMask } from "@stevedore/core";
import type { CallContext } from "@stevedore/wire/rpc/index";

/** Metadata keys of the namespace and the lease of a call, over gRPC and over ttrpc. */
const NAMESPACE_KEYS = ["containerd-namespace", "containerd-namespace-ttrpc"];
const LEASE_KEY = "containerd-lease";

/** The context of a call as core interfaces take it. */
export function requestContext(call: CallContext): RequestContext {
  const namespace = NAMESPACE_KEYS.map((key) => call.metadata.get(key)).find((value) => value !== undefined);
  const lease = call.metadata.get(LEASE_KEY);
  return {
    signal: call.signal,
    ...(namespace === undefined ? {} : { namespace }),
    ...(lease === undefined ? {} : { lease }),
    ...(call.span === undefined ? {} : { span: call.span }),
  };
}

/** A part of a request that must be there. @throws invalid-argument */
export function required<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw classified("invalid-argument", `${what} is required: invalid argument`);
  return value;
}

/** The paths of a field mask; none for an absent one. */
export function pathsOf(mask: { readonly paths: readonly string[] } | undefined): FieldMask {
  return mask?.paths ?? [];
}

/** Announces an event made of a message, in the namespace of the context. */
export async function publishEvent<D extends DescMessage>(
  to: { readonly events: EventExchange; readonly context: RequestContext; readonly topic: string },
  schema: D,
  init: MessageInitShape<D>,
): Promise<void> {
  const value = toBinary(schema, create(schema, init));
  await to.events.publish(to.context, to.topic, { typeUrl: schema.typeName, value });
}

/**
 * Makes a change whose event is recorded together with it, where the store can do that, and announces it after the change
 * where it cannot. `of.known` is what of the message is known before; `of.fields` are those that the store fills in, names in
 * its record by their number. `whole` makes all of the message from what the change gave; without it, it is all known.
 */
export async function announcing<D extends DescMessage, T>(
  of: {
    readonly events: EventExchange;
    readonly context: RequestContext;
    readonly topic: string;
    readonly schema: D;
    readonly fields?: Readonly<Record<number, string>>;
    readonly known: MessageInitShape<D>;
  },
  change: (context: RequestContext) => Promise<T>,
  whole?: (made: T) => MessageInitShape<D>,
): Promise<T> {
  const { events, context, topic, schema, known, fields = {} } = of;
  let taken = false;
  const announcement: Announcement = {
    topic,
    typeUrl: schema.typeName,
    value: toBinary(schema, create(schema, known)),
    fields,
    take: () => {
      taken = true;
    },
  };
  const made = await change({ ...context, announcement });
  if (!taken) await publishEvent({ events, context, topic }, schema, whole === undefined ? known : whole(made));
  return made;
}

/** Objects in one message of a list stream: containerd's number. */
const LIST_CHUNK = 100;

/** Cuts a list into messages of at most {@link LIST_CHUNK} objects. */
export async function* inChunks<T>(items: AsyncIterable<T>): AsyncGenerator<T[]> {
  let chunk: T[] = [];
  for await (const item of items) {
    chunk.push(item);
    if (chunk.length < LIST_CHUNK) continue;
    yield chunk;
    chunk = [];
  }
  if (chunk.length > 0) yield chunk;
}
