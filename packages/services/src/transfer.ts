import type { Any } from "@bufbuild/protobuf/wkt";
import { classified, encodeText, isErrorClass, type RequestContext } from "@stevedore/base";
import { anyFromProto } from "@stevedore/convert/any";
import { receiveBytes, sendBytes } from "@stevedore/convert/byte-streams";
import { unpacked } from "@stevedore/convert/packed";
import { askCredentials, platformFromProto, progressToAny, storeFromProto } from "@stevedore/convert/transfer";
import type {
  AnyValue,
  MessageStream,
  StreamManager,
  TransferEnd,
  TransferProgress,
  TransferRegistry,
  Transferrer,
} from "@stevedore/core";
import type { Transfer } from "@stevedore/wire/gen/containerd/services/transfer/v1/transfer_pb";
import { ImageStoreSchema } from "@stevedore/wire/gen/light/containerd/types/transfer/imagestore_pb";
import {
  ImageExportStreamSchema,
  ImageImportStreamSchema,
} from "@stevedore/wire/gen/light/containerd/types/transfer/importexport_pb";
import {
  HTTPDebug,
  OCIRegistrySchema,
  type RegistryResolver,
} from "@stevedore/wire/gen/light/containerd/types/transfer/registry_pb";
import type { ServiceImpl } from "@stevedore/wire/rpc/index";
import { schemaFor, typeNameOf } from "@stevedore/wire/typeurl";
import { requestContext } from "./request.ts";

/** Progress under way to a client that does not read; what only says "a bit more" is left out above it. */
const MAX_PENDING_PROGRESS = 1_000;

/** How long the answer waits for a client to take what was told before: containerd's. */
const DELIVERY_MS = 10_000;

/** The transfer service. */
export function transferService(of: {
  readonly streams: StreamManager;
  /** Asked in order until one does not answer not-implemented. */
  readonly transferrers: readonly Transferrer[];
}): ServiceImpl<typeof Transfer> {
  const { streams, transferrers } = of;
  return {
    transfer: async ({ source, destination, options }, call) => {
      const context = requestContext(call);
      await using opened = new OpenStreams(streams, context);
      const progressName = options?.progressStream ?? "";
      const onProgress = progressName === "" ? undefined : progressTo(opened.get(progressName));
      const from = await endOf(opened, source);
      const to = await endOf(opened, destination);
      for (const transferrer of transferrers) {
        if (from === undefined || to === undefined) break;
        try {
          await transferrer.transfer(context, from, {
            destination: to,
            ...(onProgress === undefined ? {} : { onProgress }),
          });
          return {};
        } catch (error) {
          if (!isErrorClass(error, "not-implemented")) throw error;
        }
      }
      throw classified(
        "not-implemented",
        `method Transfer not implemented for ${source?.typeUrl ?? ""} to ${destination?.typeUrl ?? ""}`,
      );
    },
  };
}

/** The streams that a transfer uses, and closes. */
class OpenStreams implements AsyncDisposable {
  readonly #streams: StreamManager;
  readonly #context: RequestContext;
  readonly #closing: MessageStream[] = [];
  readonly #inputs: MessageStream[] = [];

  constructor(streams: StreamManager, context: RequestContext) {
    this.#streams = streams;
    this.#context = context;
  }

  /** One that tells something. @throws not-found */
  get(name: string): MessageStream {
    const stream = this.#streams.get(this.#context, name);
    this.#closing.push(stream);
    return stream;
  }

  /** One that brings something: what the client was allowed to send need not reach it any more. @throws not-found */
  input(name: string): MessageStream {
    const stream = this.#streams.get(this.#context, name);
    this.#inputs.push(stream);
    return stream;
  }

  /** One that its client ends. @throws not-found */
  borrow(name: string): MessageStream {
    return this.#streams.get(this.#context, name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const stream of [...this.#closing, ...this.#inputs]) stream.close();
    // What was told comes before the answer, if the client reads at all.
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, DELIVERY_MS);
    this.#context.signal.addEventListener("abort", () => resolve(), { once: true });
    if (this.#context.signal.aborted) resolve();
    try {
      await Promise.race([promise, Promise.all(this.#closing.map(async (stream) => stream.drained()))]);
    } finally {
      clearTimeout(timer);
    }
  }
}

function progressTo(stream: MessageStream): (progress: TransferProgress) => void {
  let pending = 0;
  const send = async (progress: TransferProgress): Promise<void> => {
    pending++;
    try {
      await stream.send(progressToAny(progress));
    } catch {
      // A client that is gone is told nothing.
    } finally {
      pending--;
    }
  };
  return (progress) => {
    if (pending < MAX_PENDING_PROGRESS || !progress.event.endsWith("ing")) void send(progress);
  };
}

/** Undefined for messages that are no end of a transfer. @throws not-found for an unknown type or stream */
async function endOf(opened: OpenStreams, any: Any | undefined): Promise<TransferEnd | undefined> {
  const value: AnyValue = any === undefined ? { typeUrl: "", value: new Uint8Array() } : anyFromProto(any);
  switch (typeNameOf(value.typeUrl)) {
    case ImageStoreSchema.typeName:
      return storeFromProto(unpacked(ImageStoreSchema, value));
    case ImageImportStreamSchema.typeName: {
      const { stream, mediaType, forceCompress } = unpacked(ImageImportStreamSchema, value);
      return { kind: "import", bytes: receiveBytes(opened.input(stream)), mediaType, forceCompress };
    }
    case ImageExportStreamSchema.typeName: {
      const wanted = unpacked(ImageExportStreamSchema, value);
      const { mediaType, allPlatforms, skipCompatibilityManifest, skipNonDistributable } = wanted;
      const platforms = wanted.platforms.map(platformFromProto);
      const sender = sendBytes(opened.get(wanted.stream));
      return {
        kind: "export",
        write: async (bytes) => sender.write(bytes),
        close: () => sender.close(),
        mediaType,
        platforms,
        allPlatforms,
        skipCompatibilityManifest,
        skipNonDistributable,
      };
    }
    case OCIRegistrySchema.typeName: {
      const { reference, resolver } = unpacked(OCIRegistrySchema, value);
      return registryOf(opened, reference, resolver);
    }
    default:
      if ((await schemaFor(value.typeUrl)) !== undefined) return undefined;
      throw classified("not-found", `type with url ${value.typeUrl}: not found`);
  }
}

function registryOf(opened: OpenStreams, reference: string, resolver: RegistryResolver | undefined): TransferRegistry {
  if (resolver === undefined) return { kind: "registry", reference, headers: {}, hostDir: "", defaultScheme: "" };
  const { authStream, headers, hostDir, defaultScheme, httpDebug, logsStream } = resolver;
  const asks = authStream === "" ? undefined : askCredentials(opened.borrow(authStream), reference);
  const log = logsStream === "" ? undefined : lineSender(opened.get(logsStream));
  return {
    kind: "registry",
    reference,
    headers: { ...headers },
    hostDir,
    defaultScheme,
    ...(asks === undefined ? {} : { credentials: asks }),
    ...(log === undefined || httpDebug === HTTPDebug.DISABLED
      ? {}
      : {
          debug: {
            headers: httpDebug === HTTPDebug.DEBUG || httpDebug === HTTPDebug.BOTH,
            trace: httpDebug === HTTPDebug.TRACE || httpDebug === HTTPDebug.BOTH,
            write: log,
          },
        }),
  };
}

/** Lines to a client that asked for them, in order. One that does not read them misses some. */
function lineSender(stream: MessageStream): (line: string) => void {
  const sender = sendBytes(stream);
  let last: Promise<void> = Promise.resolve();
  let pending = 0;
  const send = async (before: Promise<void>, line: string): Promise<void> => {
    pending++;
    try {
      await before;
      await sender.write(encodeText(`${line}\n`));
    } catch {
      // A client that is gone is told nothing.
    } finally {
      pending--;
    }
  };
  return (line) => {
    if (pending < MAX_PENDING_PROGRESS) last = send(last, line);
  };
}
