import type { Socket } from "node:net";
import { concatBytes, messageOf } from "@stevedore/base";
import type { RegistryLimits } from "../limits.ts";
import { readFramed } from "./body.ts";
import { TransportError } from "./failure.ts";
import { type Framing, framingOf, parseHead, type ResponseHead } from "./head.ts";
import { reasonOf, SocketReader, StallWatch } from "./reader.ts";
import { certificateOf, type ShownCertificate } from "./tls.ts";

/** Informational answers (1xx) that may come before the real one. */
const MAX_INFORMATIONAL = 8;
/** What is left of a body that is read away to keep the connection, rather than closing it. */
const WORTH_DRAINING = 64 << 10;

/** A body to send. */
export interface RequestBody {
  /** Bytes; absent when unknown, then it is sent in chunks. */
  readonly length?: number;
  /** Called once for each time the request is sent. Chunks must not be changed afterwards. */
  readonly open: () => AsyncIterable<Uint8Array>;
}

/** One request on a connection, complete. */
export interface WireRequest {
  readonly method: string;
  /** Origin form, or absolute form for a proxy. */
  readonly target: string;
  readonly headers: readonly (readonly [name: string, value: string])[];
  readonly body?: RequestBody;
  readonly signal: AbortSignal;
  /** Milliseconds from the end of the request to the head of the answer. */
  readonly answerMs: number;
}

/** An answer whose body is still on the wire. */
export interface WireResponse extends ResponseHead {
  readonly framing: Framing;
  /** The body, once. Leaving the loop early closes the connection. */
  readonly body: AsyncGenerator<Uint8Array, void, undefined>;
}

/** One HTTP/1 connection, one exchange at a time. */
export class HttpConnection {
  readonly #socket: Socket;
  readonly #reader: SocketReader;
  readonly #limits: RegistryLimits;
  #busy = false;
  #used = false;
  #sound = true;
  /** Called when the exchange is over; `reusable` tells whether another may follow. */
  onIdle: (reusable: boolean) => void = () => undefined;

  constructor(socket: Socket, limits: RegistryLimits) {
    this.#socket = socket;
    this.#reader = new SocketReader(socket);
    this.#limits = limits;
  }

  /** Whether an exchange has been done on it, so that a failure may only mean that it was closed while idle. */
  get used(): boolean {
    return this.#used;
  }

  /** Address and port of the other side, or "" when it is gone. */
  get remote(): string {
    const { remoteAddress, remotePort } = this.#socket;
    return remoteAddress === undefined ? "" : `${remoteAddress}:${remotePort ?? 0}`;
  }

  /** What the server showed of itself; undefined without TLS. */
  get certificate(): ShownCertificate | undefined {
    return certificateOf(this.#socket);
  }

  /** Whether it can take an exchange now. */
  get usable(): boolean {
    return this.#sound && !this.#busy && !this.#reader.stirred && !this.#socket.destroyed;
  }

  /** An idle connection does not keep the process alive. */
  hold(held: boolean): void {
    if (held) this.#socket.ref();
    else this.#socket.unref();
  }

  /** Keeps a connection for later that was only opened. */
  park(): void {
    this.#used = true;
    if (!this.usable) this.close();
    this.onIdle(this.usable);
  }

  close(): void {
    this.#sound = false;
    this.#socket.destroy();
  }

  /**
   * Sends a request and reads the head of its answer.
   *
   * @throws TransportError, the signal's reason, or what the request's body threw. The connection is closed then.
   */
  async exchange(request: WireRequest): Promise<WireResponse> {
    this.#busy = true;
    const onAbort = (): void => {
      this.#reader.fail(reasonOf(request.signal));
      // Nobody may ever read the body, so the exchange ends here and not with it.
      this.#over(false);
    };
    request.signal.addEventListener("abort", onAbort, { once: true });
    const release = (): void => request.signal.removeEventListener("abort", onAbort);
    try {
      request.signal.throwIfAborted();
      const sending = this.#send(request);
      const head = await this.#answer(sending, request);
      const framing = framingOf(head, request.method);
      const body = this.#body(head, framing, release);
      // Nobody needs to read a body that is empty: running it to its end gives the connection back.
      if (framing.kind === "none" || (framing.kind === "length" && framing.length === 0)) await body.next();
      return { ...head, framing, body };
    } catch (error) {
      release();
      this.#over(false);
      throw error;
    }
  }

  async *#body(head: ResponseHead, framing: Framing, release: () => void): AsyncGenerator<Uint8Array, void, undefined> {
    let left = framing.kind === "length" ? framing.length : Number.POSITIVE_INFINITY;
    let whole = false;
    const bytes = readFramed(this.#reader, framing, new StallWatch(this.#limits.stallBytes, this.#limits.stallMs));
    try {
      for await (const chunk of bytes) {
        left -= chunk.byteLength;
        if (left === 0) whole = true;
        yield chunk;
      }
      whole = true;
    } finally {
      release();
      const reusable = whole && head.keepAlive && framing.kind !== "close" && this.#sound;
      this.#over(reusable);
    }
  }

  #over(reusable: boolean): void {
    if (!this.#busy) return;
    this.#busy = false;
    this.#used = true;
    if (!reusable || this.#reader.stirred) this.close();
    this.onIdle(this.usable);
  }

  async #answer(sending: Sending, request: WireRequest): Promise<ResponseHead> {
    // The answer may come before the body is sent: a refusal. Then sending stops, and the connection is not used again.
    let timer: ReturnType<typeof setTimeout> | undefined;
    const seconds = request.answerMs / 1000;
    const late = (): void => {
      this.#reader.fail(
        new TransportError("answer", `no answer within ${seconds} s`, { timedOut: true, code: "ETIMEDOUT" }),
      );
    };
    const watch = async (): Promise<void> => {
      try {
        await sending.done;
        if (!sending.stopped) timer = setTimeout(late, request.answerMs);
      } catch (error) {
        this.#reader.fail(error instanceof Error ? error : new Error(messageOf(error)));
      }
    };
    void watch();
    try {
      for (let i = 0; i <= MAX_INFORMATIONAL; i++) {
        const head = parseHead(await this.#headText());
        if (head.status >= 200) {
          if (!sending.complete) this.#sound = false;
          return head;
        }
      }
      throw new TransportError("answer", `more than ${MAX_INFORMATIONAL} informational answers`);
    } finally {
      sending.stopped = true;
      clearTimeout(timer);
    }
  }

  async #headText(): Promise<string> {
    const parts: Uint8Array[] = [];
    let length = 0;
    for (;;) {
      const bytes = await this.#reader.next();
      if (bytes === undefined) {
        throw new TransportError("answer", "the connection was closed before an answer", { code: "ECONNRESET" });
      }
      parts.push(bytes);
      length += bytes.byteLength;
      const all = concatBytes(parts);
      parts.splice(0, parts.length, all);
      const end = endOfHead(all);
      if (end === undefined && length > this.#limits.headBytes) {
        throw new TransportError("answer", `the head of the answer exceeds ${this.#limits.headBytes} bytes`);
      }
      if (end === undefined) continue;
      this.#reader.unshift(all.subarray(end.next));
      return Buffer.from(all.buffer, all.byteOffset, end.at).toString("latin1");
    }
  }

  #send(request: WireRequest): Sending {
    const lines = [`${request.method} ${request.target} HTTP/1.1`];
    for (const [name, value] of request.headers) lines.push(`${name}: ${value}`);
    const { body } = request;
    if (body?.length !== undefined) lines.push(`Content-Length: ${body.length}`);
    else if (body !== undefined) lines.push("Transfer-Encoding: chunked");
    else if (request.method === "POST" || request.method === "PUT" || request.method === "PATCH") {
      lines.push("Content-Length: 0");
    }
    const sending: Sending = { stopped: false, complete: false, done: Promise.resolve() };
    this.#socket.write(`${lines.join("\r\n")}\r\n\r\n`);
    if (body === undefined) sending.complete = true;
    else sending.done = this.#sendBody(body, sending);
    return sending;
  }

  async #sendBody(body: RequestBody, sending: Sending): Promise<void> {
    let sent = 0;
    for await (const chunk of body.open()) {
      if (sending.stopped || this.#socket.destroyed) return;
      if (chunk.byteLength === 0) continue;
      sent += chunk.byteLength;
      if (body.length !== undefined && sent > body.length) {
        throw new TransportError("send", `the body to send has more than the promised ${body.length} bytes`);
      }
      if (body.length === undefined) this.#socket.write(`${chunk.byteLength.toString(16)}\r\n`);
      let room = this.#socket.write(chunk);
      if (body.length === undefined) room = this.#socket.write("\r\n");
      if (!room) await this.#drained(sending);
    }
    if (sending.stopped || this.#socket.destroyed) return;
    if (body.length !== undefined && sent !== body.length) {
      throw new TransportError("send", `the body to send has ${sent} of the promised ${body.length} bytes`);
    }
    if (body.length === undefined) this.#socket.write("0\r\n\r\n");
    sending.complete = true;
  }

  async #drained(sending: Sending): Promise<void> {
    if (this.#socket.destroyed || sending.stopped) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const socket = this.#socket;
    const { stallMs } = this.#limits;
    const timer = setTimeout(() => {
      const message = `stalled: the server took no bytes for ${stallMs / 1000} s`;
      this.#reader.fail(new TransportError("send", message, { timedOut: true, code: "STALLED" }));
    }, stallMs);
    socket.once("drain", resolve);
    socket.once("close", resolve);
    try {
      await promise;
    } finally {
      clearTimeout(timer);
      socket.off("drain", resolve);
      socket.off("close", resolve);
    }
  }
}

interface Sending {
  /** Set when the answer is there, so that no more is sent. */
  stopped: boolean;
  complete: boolean;
  done: Promise<void>;
}

/** Where a head ends and what follows begins, or undefined when it is not complete. */
function endOfHead(bytes: Uint8Array): { readonly at: number; readonly next: number } | undefined {
  for (let at = bytes.indexOf(0x0a); at >= 0; at = bytes.indexOf(0x0a, at + 1)) {
    if (bytes[at + 1] === 0x0a) return { at, next: at + 2 };
    if (bytes[at + 1] === 0x0d && bytes[at + 2] === 0x0a) return { at, next: at + 3 };
  }
  return undefined;
}

/** Whether what is left of a body should be read away instead of closing its connection. */
export function worthDraining(response: WireResponse): boolean {
  return (
    response.framing.kind === "none" ||
    (response.framing.kind === "length" && response.framing.length <= WORTH_DRAINING)
  );
}
