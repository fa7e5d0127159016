import { classified, isErrorClass, type RequestContext } from "@stevedore/base";
import { anyToProto } from "@stevedore/convert/any";
import { receiveBytes, sendBytes } from "@stevedore/convert/byte-streams";
import { packed } from "@stevedore/convert/packed";
import { answerCredentials, platformToProto, progressFromAny, storeToAny } from "@stevedore/convert/transfer";
import type {
  AnyValue,
  MessageStream,
  TransferEnd,
  TransferExport,
  TransferImport,
  TransferProgress,
  TransferRegistry,
  Transferrer,
} from "@stevedore/core";
import type { Transport } from "@stevedore/wire/rpc/index";
import { callOptions, lazyClient } from "./call.ts";
import { type NamedStream, streamOpener } from "./streams.ts";

const imagesMessages = () => import("@stevedore/wire/gen/light/containerd/types/transfer/importexport_pb");
const registryMessages = () => import("@stevedore/wire/gen/light/containerd/types/transfer/registry_pb");

/** How long the end of an archive is waited for after the daemon has said that all was sent, in milliseconds. */
const LAST_BYTES_MS = 10_000;

/** The transfer service of a daemon. Each transfer fails with not-implemented on daemons before 1.7. */
export function transferProxy(transport: Transport): Transferrer {
  const transfers = lazyClient(
    transport,
    async () => (await import("@stevedore/wire/gen/light/containerd/services/transfer/v1/transfer_pb")).Transfer,
  );
  const open = streamOpener(transport);
  return {
    transfer: async (context, source, { destination, onProgress }) => {
      const client = await transfers();
      using running = new Running(context, open);
      const progress = onProgress === undefined ? undefined : await running.progress(onProgress);
      const from = await running.end(source);
      const to = await running.end(destination);
      try {
        await client.transfer(
          {
            source: anyToProto(from),
            destination: anyToProto(to),
            options: { progressStream: progress?.name ?? "" },
          },
          callOptions(running.context),
        );
      } catch (error) {
        // What went wrong on our side is why the call did.
        throw running.failure ?? error;
      }
      await running.finish();
    },
  };
}

/** One transfer with its streams. */
class Running implements Disposable {
  readonly context: RequestContext;
  readonly #open: (context: RequestContext, kind: string) => Promise<NamedStream>;
  readonly #streams: NamedStream[] = [];
  readonly #ending = new AbortController();
  /** What has to be done on our side before the transfer is. */
  readonly #rest: (() => Promise<void>)[] = [];
  /** What failed on our side. */
  failure: Error | undefined;

  constructor(context: RequestContext, open: (context: RequestContext, kind: string) => Promise<NamedStream>) {
    this.context = { ...context, signal: AbortSignal.any([context.signal, this.#ending.signal]) };
    this.#open = open;
  }

  async #stream(kind: string): Promise<NamedStream> {
    const opened = await this.#open(this.context, kind);
    this.#streams.push(opened);
    return opened;
  }

  /** The daemon ends this one when all is told. */
  async progress(tell: (progress: TransferProgress) => void): Promise<NamedStream> {
    const opened = await this.#stream("progress");
    const told = this.#guarded(async () => {
      for await (const any of messagesOf(opened.stream)) tell(progressFromAny(any));
    });
    this.#rest.push(() => told);
    return opened;
  }

  async end(end: TransferEnd): Promise<AnyValue> {
    switch (end.kind) {
      case "store":
        return storeToAny(end);
      case "import":
        return this.#import(end);
      case "export":
        return this.#export(end);
      case "registry":
        return this.#registry(end);
    }
  }

  async #import({ bytes, mediaType, forceCompress }: TransferImport): Promise<AnyValue> {
    const { ImageImportStreamSchema } = await imagesMessages();
    const { name, stream } = await this.#stream("import");
    // Not waited for: the daemon may have all it wants before the archive ends.
    void this.#guarded(async () => {
      const sender = sendBytes(stream);
      for await (const chunk of bytes) await sender.write(chunk);
      sender.close();
    });
    return packed(ImageImportStreamSchema, { stream: name, mediaType, forceCompress });
  }

  async #export(target: TransferExport): Promise<AnyValue> {
    const { ImageExportStreamSchema } = await imagesMessages();
    const { name, stream } = await this.#stream("export");
    const archive = new ArchiveCopy(target);
    const copied = this.#guarded(async () => archive.copy(receiveBytes(stream)));
    this.#rest.push(async () => {
      await Promise.race([copied, archive.quietEnd(this.context.signal)]);
      target.close();
    });
    const { mediaType, allPlatforms, skipCompatibilityManifest, skipNonDistributable } = target;
    return packed(ImageExportStreamSchema, {
      stream: name,
      mediaType,
      platforms: target.platforms.map(platformToProto),
      allPlatforms,
      skipCompatibilityManifest,
      skipNonDistributable,
    });
  }

  async #registry(registry: TransferRegistry): Promise<AnyValue> {
    const { OCIRegistrySchema, HTTPDebug } = await registryMessages();
    const { reference, headers, hostDir, defaultScheme, credentials, debug } = registry;
    const auth = credentials === undefined ? undefined : await this.#stream("creds");
    if (auth !== undefined && credentials !== undefined) {
      void this.#guarded(async () =>
        answerCredentials(auth.stream, async (host) => credentials(host, this.context.signal)),
      );
    }
    const logs = debug === undefined ? undefined : await this.#stream("logs");
    if (logs !== undefined && debug !== undefined) {
      const written = this.#guarded(async () => {
        for await (const bytes of receiveBytes(logs.stream)) debug.write(new TextDecoder().decode(bytes));
      });
      this.#rest.push(() => written);
    }
    const kinds = [HTTPDebug.DISABLED, HTTPDebug.DEBUG, HTTPDebug.TRACE, HTTPDebug.BOTH];
    const httpDebug = kinds[Number(debug?.headers === true) + 2 * Number(debug?.trace === true)] ?? HTTPDebug.DISABLED;
    return packed(OCIRegistrySchema, {
      reference,
      resolver: {
        authStream: auth?.name ?? "",
        headers: { ...headers },
        hostDir,
        defaultScheme,
        httpDebug,
        logsStream: logs?.name ?? "",
      },
    });
  }

  /** A failure ends the transfer, unless the stream has only ended. */
  async #guarded(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (this.#ending.signal.aborted || isErrorClass(error, "unavailable") || isErrorClass(error, "canceled")) return;
      this.failure ??= error instanceof Error ? error : classified("unknown", String(error));
      this.#ending.abort(this.failure);
    }
  }

  /** After the daemon has answered. */
  async finish(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, LAST_BYTES_MS);
    try {
      await Promise.race([promise, Promise.all(this.#rest.map(async (rest) => rest()))]);
    } finally {
      clearTimeout(timer);
    }
    if (this.failure !== undefined) throw this.failure;
  }

  [Symbol.dispose](): void {
    this.#ending.abort(new DOMException("the transfer is over", "AbortError"));
    for (const stream of this.#streams) stream[Symbol.dispose]();
  }
}

async function* messagesOf(stream: MessageStream): AsyncGenerator<AnyValue> {
  for (let any = await stream.receive(); any !== undefined; any = await stream.receive()) yield any;
}

/** Zeros that end a tar archive: two blocks. */
const TAR_END_LENGTH = 1024;
const TAR_BLOCK = 512;

/** Nothing more comes when nothing has come for this long, in milliseconds, after the daemon has answered. */
const QUIET_MS = 100;

/**
 * An archive on its way to its target. containerd leaves the stream open behind it: then its end is where a tar archive can
 * end and nothing follows after the daemon has said that all was sent.
 */
class ArchiveCopy {
  readonly #target: TransferExport;
  #length = 0;
  #zeros = 0;
  #lastAt = 0;

  constructor(target: TransferExport) {
    this.#target = target;
  }

  async copy(bytes: AsyncIterable<Uint8Array>): Promise<void> {
    for await (const chunk of bytes) {
      await this.#target.write(chunk);
      this.#length += chunk.byteLength;
      const data = chunk.findLastIndex((byte) => byte !== 0);
      this.#zeros = data < 0 ? this.#zeros + chunk.byteLength : chunk.byteLength - 1 - data;
      this.#lastAt = performance.now();
    }
  }

  /** Resolves when the archive is whole, as far as one can tell. Asked after the daemon's answer. */
  async quietEnd(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const ended = this.#zeros >= TAR_END_LENGTH && this.#length % TAR_BLOCK === 0;
      if (ended && performance.now() - this.#lastAt >= QUIET_MS) return;
      const { promise, resolve } = Promise.withResolvers<void>();
      setTimeout(resolve, QUIET_MS);
      await promise;
    }
  }
}
