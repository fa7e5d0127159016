import { fromBinary } from "@bufbuild/protobuf";
import { AnySchema } from "@bufbuild/protobuf/wkt";
import { backgroundContext, classified, messageOf, withContext } from "@stevedore/base";
import { stringFlag } from "../kit/flags.ts";
import { containerdCommand } from "./globals.ts";

const DEFAULT_ADDRESS = "/run/containerd/containerd.sock";

/** The peer's limit for reaching the daemon. */
const CONNECT_TIMEOUT_MS = 60_000;

/** An event is one gRPC message, and those are limited to this. */
const MAX_PAYLOAD = 16 * 1024 * 1024;

/** Announces the event on stdin (a protobuf Any). Shims without a ttrpc address start this for each event. */
export const command = containerdCommand({
  flags: {
    namespace: stringFlag("namespace", "namespace to publish to"),
    topic: stringFlag("topic", "topic of the event"),
  },
  action: async ({ flags: { namespace, topic }, globals, io }) => {
    if (topic === "") throw classified("invalid-argument", "topic required to publish event");
    const { typeUrl, value } = parseEvent(await readInput());
    const { connectClient } = await import("@stevedore/sdk/connect");
    const address = globals.address === "" ? DEFAULT_ADDRESS : globals.address;
    await using client = connectClient({ address, connectTimeoutMs: CONNECT_TIMEOUT_MS });
    const context = backgroundContext({ signal: io.signal, ...(namespace === "" ? {} : { namespace }) });
    await client.events.publish(context, topic, { typeUrl, value });
    return 0;
  },
});

async function readInput(): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of Bun.stdin.stream()) {
    size += part.byteLength;
    if (size > MAX_PAYLOAD) {
      throw classified("invalid-argument", `read event from stdin: longer than ${MAX_PAYLOAD} bytes`);
    }
    parts.push(part);
  }
  return Buffer.concat(parts);
}

function parseEvent(bytes: Uint8Array) {
  try {
    return fromBinary(AnySchema, bytes);
  } catch (error) {
    throw withContext("read event from stdin", classified("invalid-argument", messageOf(error)));
  }
}
