// A tiny OTLP collector: takes spans over HTTP or gRPC, and keeps them.
import { createServer, type IncomingHttpHeaders, type ServerHttp2Session, type ServerHttp2Stream } from "node:http2";
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";

export type CollectedSpan = {
  readonly service: string;
  readonly traceId: string;
  readonly spanId: string;
  readonly parentId: string;
  readonly name: string;
  /** 1 internal, 2 server, 3 client. */
  readonly kind: number;
  readonly start: bigint;
  readonly end: bigint;
  readonly attributes: Readonly<Record<string, string | number | boolean>>;
  readonly events: readonly string[];
  /** 0 unset, 2 error. */
  readonly status: number;
  readonly message: string;
};

type Fields = ReadonlyMap<number, readonly (Uint8Array | bigint)[]>;

function fieldsOf(bytes: Uint8Array): Fields {
  const fields = new Map<number, (Uint8Array | bigint)[]>();
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    const value =
      type === WireType.LengthDelimited
        ? reader.bytes()
        : BigInt(
            type === WireType.Varint ? reader.uint64() : type === WireType.Bit64 ? reader.fixed64() : reader.fixed32(),
          );
    fields.set(field, [...(fields.get(field) ?? []), value]);
  }
  return fields;
}

const bytesAt = (fields: Fields, field: number): Uint8Array[] =>
  (fields.get(field) ?? []).filter((value) => value instanceof Uint8Array);
const textAt = (fields: Fields, field: number): string => Buffer.from(bytesAt(fields, field)[0] ?? []).toString();
const hexAt = (fields: Fields, field: number): string => Buffer.from(bytesAt(fields, field)[0] ?? []).toString("hex");
const numberAt = (fields: Fields, field: number): bigint => {
  const value = fields.get(field)?.[0];
  return typeof value === "bigint" ? value : 0n;
};

function attributesAt(fields: Fields, field: number): Record<string, string | number | boolean> {
  const attributes: Record<string, string | number | boolean> = {};
  for (const bytes of bytesAt(fields, field)) {
    const pair = fieldsOf(bytes);
    attributes[textAt(pair, 1)] = valueIn(fieldsOf(bytesAt(pair, 2)[0] ?? new Uint8Array()));
  }
  return attributes;
}

function valueIn(value: Fields): string | number | boolean {
  if (value.has(1)) return textAt(value, 1);
  if (value.has(2)) return numberAt(value, 2) === 1n;
  if (value.has(3)) return Number(numberAt(value, 3));
  const double = new DataView(new ArrayBuffer(8));
  double.setBigUint64(0, numberAt(value, 4));
  return double.getFloat64(0);
}

/** The spans of one ExportTraceServiceRequest. */
export function spansIn(message: Uint8Array): CollectedSpan[] {
  return bytesAt(fieldsOf(message), 1).flatMap((bytes) => {
    const group = fieldsOf(bytes);
    const resource = attributesAt(fieldsOf(bytesAt(group, 1)[0] ?? new Uint8Array()), 1);
    return bytesAt(group, 2).flatMap((scope) =>
      bytesAt(fieldsOf(scope), 2).map((span): CollectedSpan => {
        const fields = fieldsOf(span);
        const status = fieldsOf(bytesAt(fields, 15)[0] ?? new Uint8Array());
        return {
          service: String(resource["service.name"]),
          traceId: hexAt(fields, 1),
          spanId: hexAt(fields, 2),
          parentId: hexAt(fields, 4),
          name: textAt(fields, 5),
          kind: Number(numberAt(fields, 6)),
          start: numberAt(fields, 7),
          end: numberAt(fields, 8),
          attributes: attributesAt(fields, 9),
          events: bytesAt(fields, 11).map((event) => textAt(fieldsOf(event), 2)),
          status: Number(numberAt(status, 3)),
          message: textAt(status, 2),
        };
      }),
    );
  });
}

/** Something spans can be sent to. */
export interface Collector extends AsyncDisposable {
  /** `127.0.0.1:port` */
  readonly address: string;
  spans(): Promise<CollectedSpan[]>;
}

/** What a request over HTTP looked like. */
export type HttpRequestSeen = { readonly path: string; readonly headers: Readonly<Record<string, string>> };

export function httpCollector(): Collector & { readonly requests: HttpRequestSeen[]; failures: number } {
  const spans: CollectedSpan[] = [];
  const requests: HttpRequestSeen[] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: async (request) => {
      requests.push({ path: new URL(request.url).pathname, headers: Object.fromEntries(request.headers) });
      const body = new Uint8Array(await request.arrayBuffer());
      if (collector.failures > 0) {
        collector.failures -= 1;
        return new Response("not now", { status: 503 });
      }
      spans.push(...spansIn(request.headers.get("content-encoding") === "gzip" ? Bun.gunzipSync(body) : body));
      return new Response(new Uint8Array(), { headers: { "content-type": "application/x-protobuf" } });
    },
  });
  const collector = {
    address: `127.0.0.1:${server.port}`,
    spans: async () => spans,
    requests,
    failures: 0,
    [Symbol.asyncDispose]: async () => server.stop(true),
  };
  return collector;
}

const GRPC_PATH = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/** A message's flag of compression and length. */
const PREFIX = 5;

/** Speaks gRPC by Bun's own HTTP/2, of which our client has nothing. */
export async function grpcCollector(): Promise<Collector> {
  const spans: CollectedSpan[] = [];
  const server = createServer();
  const sessions = new Set<ServerHttp2Session>();
  server.on("session", (session) => sessions.add(session));
  server.on("stream", (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => {
    const chunks: Buffer[] = [];
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.on("end", () => {
      const known = headers[":path"] === GRPC_PATH;
      if (known) spans.push(...spansIn(Buffer.concat(chunks).subarray(PREFIX)));
      stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
      stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": known ? "0" : "12" }));
      // An empty ExportTraceServiceResponse.
      stream.end(Buffer.alloc(PREFIX));
    });
  });
  const port = await new Promise<number>((resolve) => {
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      resolve(address !== null && typeof address === "object" ? address.port : 0);
    });
  });
  return {
    address: `127.0.0.1:${port}`,
    spans: async () => spans,
    [Symbol.asyncDispose]: async () => {
      for (const session of sessions) session.destroy();
      server.close();
    },
  };
}
