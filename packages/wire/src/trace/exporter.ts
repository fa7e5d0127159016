/** Sends ended spans to an OTLP collector: in batches, apart from the calls they are of, and never without bound. */
import { classified, errorClassOf, type Logger, messageOf, type SpanAttributes } from "@stevedore/base";
import { GrpcChannel } from "../grpc/client-channel.ts";
import { encodeSpans } from "./otlp.ts";
import type { ExportSettings } from "./settings.ts";
import type { EndedSpan } from "./tracer.ts";

const GRPC_PATH = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/** A collector that is away: first pause, longest pause, and how long spans are kept for it. OpenTelemetry's figures. */
const FIRST_PAUSE_MS = 5_000;
const MAX_PAUSE_MS = 30_000;
const MAX_AGE_MS = 60_000;

/** How long the end of the daemon waits for the last spans. */
const LAST_MS = 3_000;

/** HTTP answers after which the same request may succeed. */
const RETRYABLE = new Set([429, 502, 503, 504]);

export interface ExporterOptions {
  readonly settings: ExportSettings;
  readonly resource: SpanAttributes;
  readonly log: Logger;
}

interface Send {
  /** @throws unavailable when it may be tried again */
  readonly send: (message: Uint8Array<ArrayBuffer>, signal: AbortSignal) => Promise<void>;
  readonly close: () => void;
}

export class SpanExporter implements AsyncDisposable {
  readonly #options: ExporterOptions;
  readonly #sender: Send;
  #queue: EndedSpan[] = [];
  #dropped = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #sending: Promise<void> | undefined;
  #pauseMs = 0;
  #failingSince: number | undefined;
  #closed = false;

  constructor(options: ExporterOptions) {
    this.#options = options;
    this.#sender = options.settings.protocol === "grpc" ? grpcSender(options.settings) : httpSender(options.settings);
  }

  /** Takes a span. What does not fit is dropped, and told of in the log. */
  readonly take = (span: EndedSpan): void => {
    const { maxQueue, maxBatch } = this.#options.settings.batch;
    if (this.#closed || this.#queue.length >= maxQueue) {
      this.#dropped++;
      return;
    }
    this.#queue.push(span);
    if (this.#queue.length >= maxBatch && this.#pauseMs === 0) this.#start(0);
    else this.#start(this.#options.settings.batch.delayMs);
  };

  /** Sends what waits, once, for as long as a few seconds. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    const limit = AbortSignal.timeout(LAST_MS);
    await this.#sending;
    while (this.#queue.length > 0 && !limit.aborted) {
      const batch = this.#queue.splice(0, this.#options.settings.batch.maxBatch);
      if (!(await this.#send(batch, limit))) break;
    }
    this.#sender.close();
  }

  #start(delayMs: number): void {
    if (this.#sending !== undefined || this.#closed) return;
    if (this.#timer !== undefined) {
      if (delayMs > 0) return;
      clearTimeout(this.#timer);
    }
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#sending = this.#sendAll().finally(() => {
        this.#sending = undefined;
        if (this.#queue.length > 0) this.#start(Math.max(this.#pauseMs, this.#options.settings.batch.delayMs));
      });
    }, delayMs);
    this.#timer.unref();
  }

  async #sendAll(): Promise<void> {
    const { maxBatch } = this.#options.settings.batch;
    for (let left = this.#queue.length; left > 0 && !this.#closed; left -= maxBatch) {
      const batch = this.#queue.splice(0, maxBatch);
      const signal = AbortSignal.timeout(this.#options.settings.timeoutMs);
      if (await this.#send(batch, signal)) continue;
      this.#putBack(batch);
      return;
    }
  }

  /** @returns false when the same should be tried again later. */
  async #send(batch: readonly EndedSpan[], signal: AbortSignal): Promise<boolean> {
    const { resource, log } = this.#options;
    this.#tellDropped();
    try {
      await this.#sender.send(encodeSpans(batch, resource), signal);
      this.#pauseMs = 0;
      this.#failingSince = undefined;
      return true;
    } catch (error) {
      const retry = RETRYABLE_CLASSES.has(errorClassOf(error) ?? "unknown");
      const now = performance.now();
      this.#failingSince ??= now;
      if (retry && !this.#closed && now - this.#failingSince < MAX_AGE_MS) {
        this.#pauseMs = Math.min(Math.max(this.#pauseMs * 2, FIRST_PAUSE_MS), MAX_PAUSE_MS);
        log.debug("traces export: trying again", { spans: batch.length, error: messageOf(error) });
        return false;
      }
      log.warn("traces export: spans are lost", { spans: batch.length, error: messageOf(error) });
      return true;
    }
  }

  #putBack(batch: readonly EndedSpan[]): void {
    const room = Math.max(this.#options.settings.batch.maxQueue - this.#queue.length, 0);
    this.#dropped += Math.max(batch.length - room, 0);
    this.#queue.unshift(...batch.slice(0, room));
  }

  #tellDropped(): void {
    if (this.#dropped === 0) return;
    this.#options.log.warn("traces export: more spans than can be sent", { dropped: this.#dropped });
    this.#dropped = 0;
  }
}

const RETRYABLE_CLASSES: ReadonlySet<string> = new Set(["unavailable", "deadline-exceeded", "resource-exhausted"]);

function tlsOf({ ca, cert, key }: ExportSettings): Bun.TLSOptions {
  return {
    ...(ca === "" ? {} : { ca: Bun.file(ca) }),
    ...(cert === "" ? {} : { cert: Bun.file(cert) }),
    ...(key === "" ? {} : { key: Bun.file(key) }),
  };
}

function httpSender(settings: ExportSettings): Send {
  const headers: Record<string, string> = { ...settings.headers, "content-type": "application/x-protobuf" };
  if (settings.gzip) headers["content-encoding"] = "gzip";
  const tls = settings.tls ? { tls: tlsOf(settings) } : {};
  return {
    send: async (message, signal) => {
      const body = settings.gzip ? Bun.gzipSync(message) : message;
      let answer: Response;
      try {
        answer = await fetch(settings.target, { method: "POST", headers, body, signal, redirect: "manual", ...tls });
      } catch (cause) {
        throw classified("unavailable", `send spans to ${settings.target}: ${messageOf(cause)}`, { cause });
      }
      await answer.arrayBuffer();
      if (answer.ok) return;
      const message_ = `send spans to ${settings.target}: HTTP status ${answer.status}`;
      throw classified(RETRYABLE.has(answer.status) ? "unavailable" : "unknown", message_);
    },
    close: () => undefined,
  };
}

function grpcSender(settings: ExportSettings): Send {
  const channel = new GrpcChannel({ address: settings.target, ...(settings.tls ? { tls: tlsOf(settings) } : {}) });
  const { headers: metadata } = settings;
  return {
    send: async (message, signal) => {
      await channel.unary(GRPC_PATH, message, { signal, metadata });
    },
    close: () => channel.close(),
  };
}
