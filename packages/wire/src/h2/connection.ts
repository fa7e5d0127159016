import type { ByteChannel } from "./byte-channel.ts";
import { type FrameHead, FrameReader, readUint31, readUint32, writeHead, writeUint32 } from "./frame-reader.ts";
import { type HeaderBlock, HpackDecoder } from "./hpack-decoder.ts";
import { HpackEncoder } from "./hpack-encoder.ts";
import {
  Allowance,
  CONNECTION_WINDOW,
  EMPTY_BURST,
  EMPTY_RATE,
  HANDSHAKE_MS,
  MAX_CONCURRENT_STREAMS,
  MAX_CONTINUATIONS,
  MAX_HEADER_BLOCK,
  MAX_HEADER_LIST,
  MAX_QUEUED,
  MAX_QUEUED_CONTROL,
  RESET_BURST,
  RESET_RATE,
} from "./limits.ts";
import {
  ConnectionError,
  DEFAULT_MAX_FRAME,
  DEFAULT_WINDOW,
  ErrorCode,
  errorCodeName,
  Flag,
  FRAME_HEADER,
  FrameType,
  type HeaderField,
  LARGEST_MAX_FRAME,
  MAX_WINDOW,
  PREFACE,
  Setting,
} from "./protocol.ts";
import { connectionLost, H2Stream, resetByPeer } from "./stream.ts";

/** What a connection tells its owner. None of these may throw. */
export interface ConnectionHandler {
  /** Server: the peer opened a stream; `stream.handler` must be set before this returns, or the stream is reset. */
  opened?(stream: H2Stream): void;
  /** The peer will not act on streams above `lastStreamId`; those were aborted as unprocessed. */
  goaway?(lastStreamId: number, code: number, debug: string): void;
  /** Client: the peer's limit leaves room for another stream again. */
  capacity?(): void;
  /** The connection has ended; all streams were aborted before. Called once. */
  closed?(cause: Error | undefined): void;
}

export interface ConnectionOptions {
  readonly role: "client" | "server";
  readonly handler: ConnectionHandler;
  /** Server: streams a client may have open. Default {@link MAX_CONCURRENT_STREAMS}. */
  readonly maxConcurrentStreams?: number;
  /** Largest header list taken, in bytes. Default {@link MAX_HEADER_LIST}. */
  readonly maxHeaderList?: number;
  /** Milliseconds until the peer has to have said its SETTINGS. Default {@link HANDSHAKE_MS}. */
  readonly handshakeMs?: number;
}

/**
 * Where frames are put together before one write. One for all connections: a fill and its write never wait, and what a
 * channel does not take is copied out. Sixteen full frames fill a unix socket's buffer.
 */
const STAGING_FRAMES = 16;
let staging: Uint8Array | undefined;

function stagingBuffer(): Uint8Array {
  staging ??= new Uint8Array(STAGING_FRAMES * (DEFAULT_MAX_FRAME + FRAME_HEADER));
  return staging;
}

const EMPTY: Uint8Array = new Uint8Array(0);

/**
 * One HTTP/2 connection, either side. Data is sent from a queue per stream, a frame of each in turn, as far as the
 * peer's windows go; a stream without window leaves the turn and comes back with its window, so none can hold up
 * another. What arrives is handed on at once: the connection's window is given back on arrival, a stream's window when
 * its application has read.
 */
export class H2Connection {
  readonly #channel: ByteChannel;
  readonly #handler: ConnectionHandler;
  readonly #server: boolean;
  readonly #maxConcurrent: number;
  readonly #reader: FrameReader;
  readonly #decoder: HpackDecoder;
  readonly #encoder = new HpackEncoder();
  readonly #streams = new Map<number, H2Stream>();

  #prefaceLeft: Uint8Array;
  #settingsSeen = false;
  #handshakeTimer: ReturnType<typeof setTimeout> | undefined;
  #state: "open" | "ending" | "closed" = "open";
  #nextId = 1;
  #lastPeerId = 0;
  /** We take no streams above this: set by our GOAWAY. */
  #acceptUpTo = MAX_WINDOW;
  #peerGone = false;
  #endWhenIdle = false;

  // Sending.
  #sendWindow = DEFAULT_WINDOW;
  #peerInitialWindow = DEFAULT_WINDOW;
  #peerMaxFrame = DEFAULT_MAX_FRAME;
  #peerMaxStreams = Number.POSITIVE_INFINITY;
  #peerMaxHeaderList = Number.POSITIVE_INFINITY;
  #control: Uint8Array[] = [];
  #controlOffset = 0;
  #unsent = EMPTY;
  #queuedTotal = 0;
  #flushing = false;
  #corked = false;
  #readyHead: H2Stream | undefined;
  #readyTail: H2Stream | undefined;
  #windowless: H2Stream[] = [];

  // Receiving.
  #received = 0;
  #receiveWindow = DEFAULT_WINDOW;
  #block: { streamId: number; flags: number; parts: Uint8Array[]; size: number; frames: number } | undefined;
  readonly #resets = new Allowance(RESET_BURST, RESET_RATE);
  readonly #empties = new Allowance(EMPTY_BURST, EMPTY_RATE);
  #pings = new Map<number, () => void>();
  #pingNumber = 0;

  constructor(channel: ByteChannel, options: ConnectionOptions) {
    this.#channel = channel;
    this.#handler = options.handler;
    this.#server = options.role === "server";
    this.#maxConcurrent = options.maxConcurrentStreams ?? MAX_CONCURRENT_STREAMS;
    this.#prefaceLeft = this.#server ? PREFACE : EMPTY;
    const maxHeaderList = options.maxHeaderList ?? MAX_HEADER_LIST;
    this.#decoder = new HpackDecoder(maxHeaderList);
    this.#reader = new FrameReader(DEFAULT_MAX_FRAME, (head, payload) => this.#frame(head, payload));
    // A client's preface leaves with its first request, in one write.
    this.#corked = !this.#server;
    if (!this.#server) this.#push(PREFACE);
    this.#sendSettings(
      this.#server
        ? [
            [Setting.maxConcurrentStreams, this.#maxConcurrent],
            [Setting.maxHeaderListSize, maxHeaderList],
          ]
        : [
            [Setting.enablePush, 0],
            [Setting.maxHeaderListSize, maxHeaderList],
          ],
    );
    this.#receiveWindow = CONNECTION_WINDOW;
    this.sendWindowUpdate(0, CONNECTION_WINDOW - DEFAULT_WINDOW);
    this.#handshakeTimer = setTimeout(
      () => this.#fail(new ConnectionError(ErrorCode.settingsTimeout, "no preface and settings in time")),
      options.handshakeMs ?? HANDSHAKE_MS,
    );
    this.#handshakeTimer.unref();
    channel.start({
      data: (bytes) => this.#data(bytes),
      drained: () => this.#flush(),
      closed: (cause) => this.#closed(cause),
    });
    if (this.#corked) setImmediate(() => this.#uncork());
  }

  get peer(): ByteChannel["peer"] {
    return this.#channel.peer;
  }

  get open(): boolean {
    return this.#state === "open";
  }

  /** Streams that are not over. */
  get streamCount(): number {
    return this.#streams.size;
  }

  /** Client: another stream may be opened now. */
  get hasCapacity(): boolean {
    return this.usable && this.#streams.size < this.#peerMaxStreams;
  }

  /** Client: new streams are possible in principle: no GOAWAY, ids left. */
  get usable(): boolean {
    return this.#state === "open" && !this.#peerGone && this.#nextId < MAX_WINDOW;
  }

  /** The peer's SETTINGS_MAX_HEADER_LIST_SIZE in bytes; infinite when it named none. */
  get peerMaxHeaderList(): number {
    return this.#peerMaxHeaderList;
  }

  /** Client: opens a stream with its request headers. */
  request(fields: readonly HeaderField[], handler: H2Stream["handler"]): H2Stream {
    const stream = new H2Stream(this, this.#nextId, this.#peerInitialWindow);
    this.#nextId += 2;
    stream.handler = handler;
    this.#streams.set(stream.id, stream);
    this.sendHeaders(stream, fields, false);
    if (this.#corked) this.#uncork();
    return stream;
  }

  /** Sends a ping; `answered` runs when the peer has answered. */
  ping(answered: () => void): void {
    const number = ++this.#pingNumber;
    this.#pings.set(number, answered);
    const payload = new Uint8Array(8);
    writeUint32(payload, 4, number);
    this.#pushFrame({ type: FrameType.ping, flags: 0, streamId: 0 }, payload);
  }

  /**
   * Tells the peer to open no more streams. Those it has opened run on; with `endWhenIdle` the connection ends after
   * the last. A server first names no stream, and after the peer has answered a ping names the last it took, so that
   * streams on their way are not lost.
   */
  shutDown(): void {
    if (this.#state !== "open") return;
    this.#endWhenIdle = true;
    if (!this.#server) {
      this.#goaway(0, ErrorCode.noError, "");
      this.#maybeIdle();
      return;
    }
    this.#goaway(MAX_WINDOW, ErrorCode.noError, "");
    this.ping(() => {
      this.#acceptUpTo = this.#lastPeerId;
      this.#goaway(this.#lastPeerId, ErrorCode.noError, "");
      this.#maybeIdle();
    });
  }

  /** Ends the connection now: what is queued for the socket is sent, streams are aborted. */
  end(code: number = ErrorCode.noError, debug = ""): void {
    if (this.#state !== "open") return;
    this.#goaway(this.#lastPeerId, code, debug);
    this.#flush();
    this.#state = "ending";
    if (this.#unsent.length === 0) this.#channel.end();
    else this.#channel.destroy();
    this.#abortAll("connection closed");
  }

  /** For streams. */
  sendHeaders(stream: H2Stream, fields: readonly HeaderField[], end: boolean): void {
    if (this.#state !== "open") return;
    this.#push(this.#headerFrames(stream.id, fields, end));
    if (end) this.#closeLocal(stream);
  }

  /** For streams. */
  queued(bytes: number): void {
    this.#queuedTotal += bytes;
    if (this.#queuedTotal > MAX_QUEUED) {
      this.#fail(new ConnectionError(ErrorCode.enhanceYourCalm, "peer reads too slowly for what it asks"));
    }
  }

  /** For streams: there is something to send. */
  makeReady(stream: H2Stream): void {
    if (stream.ready || stream.gone) return;
    stream.ready = true;
    stream.next = undefined;
    if (this.#readyTail === undefined) this.#readyHead = stream;
    else this.#readyTail.next = stream;
    this.#readyTail = stream;
    this.#scheduleFlush();
  }

  /** For streams. */
  sendWindowUpdate(streamId: number, increment: number): void {
    const payload = new Uint8Array(4);
    writeUint32(payload, 0, increment);
    this.#pushFrame({ type: FrameType.windowUpdate, flags: 0, streamId }, payload);
  }

  /** For streams. */
  resetStream(stream: H2Stream, code: number): void {
    this.#remove(stream);
    this.#sendReset(stream.id, code);
  }

  #sendReset(streamId: number, code: number): void {
    const payload = new Uint8Array(4);
    writeUint32(payload, 0, code);
    this.#pushFrame({ type: FrameType.rstStream, flags: 0, streamId }, payload);
  }

  #sendSettings(values: readonly (readonly [id: number, value: number])[]): void {
    const payload = new Uint8Array(values.length * 6);
    values.forEach(([id, value], i) => {
      payload[i * 6 + 1] = id;
      writeUint32(payload, i * 6 + 2, value);
    });
    this.#pushFrame({ type: FrameType.settings, flags: 0, streamId: 0 }, payload);
  }

  #goaway(lastStreamId: number, code: number, debug: string): void {
    const text = new TextEncoder().encode(debug);
    const payload = new Uint8Array(8 + text.length);
    writeUint32(payload, 0, lastStreamId);
    writeUint32(payload, 4, code);
    payload.set(text, 8);
    this.#pushFrame({ type: FrameType.goaway, flags: 0, streamId: 0 }, payload);
  }

  #pushFrame(head: FrameHead, payload: Uint8Array): void {
    const frame = new Uint8Array(FRAME_HEADER + payload.length);
    writeHead(frame, 0, payload.length, head);
    frame.set(payload, FRAME_HEADER);
    this.#push(frame);
  }

  #push(frames: Uint8Array): void {
    if (this.#state !== "open") return;
    this.#control.push(frames);
    this.#queuedTotal += frames.length;
    this.#scheduleFlush();
  }

  #headerFrames(streamId: number, fields: readonly HeaderField[], end: boolean): Uint8Array {
    const block = this.#encoder.encode(fields);
    const max = this.#peerMaxFrame;
    const count = Math.max(1, Math.ceil(block.length / max));
    const out = new Uint8Array(block.length + count * FRAME_HEADER);
    let to = 0;
    for (let i = 0; i < count; i++) {
      const part = count === 1 ? block : block.subarray(i * max, (i + 1) * max);
      const type = i === 0 ? FrameType.headers : FrameType.continuation;
      const flags = (i === 0 && end ? Flag.endStream : 0) | (i === count - 1 ? Flag.endHeaders : 0);
      writeHead(out, to, part.length, { type, flags, streamId });
      out.set(part, to + FRAME_HEADER);
      to += FRAME_HEADER + part.length;
    }
    return out;
  }

  // One write for all that this turn brings: ticks run behind the promises that handlers wait for.
  #scheduleFlush(): void {
    if (this.#flushing || this.#corked || this.#unsent.length > 0 || this.#state !== "open") return;
    this.#flushing = true;
    process.nextTick(() => {
      this.#flushing = false;
      this.#flush();
    });
  }

  #uncork(): void {
    this.#corked = false;
    this.#scheduleFlush();
  }

  #flush(): void {
    if (this.#state !== "open") return;
    if (this.#unsent.length > 0) {
      const taken = this.#channel.write(this.#unsent);
      this.#queuedTotal -= taken;
      this.#unsent = this.#unsent.subarray(taken);
      if (this.#unsent.length > 0) return;
      this.#unsent = EMPTY;
    }
    const out = stagingBuffer();
    for (;;) {
      const length = this.#fill(out);
      if (length === 0) return;
      const taken = this.#channel.write(out.subarray(0, length));
      this.#queuedTotal -= taken;
      if (taken < length) {
        this.#unsent = out.slice(taken, length);
        return;
      }
    }
  }

  /** Puts as much as fits and may be sent into `out`; returns its length. */
  #fill(out: Uint8Array): number {
    let at = this.#fillControl(out);
    while (this.#control.length === 0) {
      const stream = this.#readyHead;
      if (stream === undefined) break;
      if (stream.gone) {
        this.#shiftReady();
        continue;
      }
      if (stream.queuedBytes === 0) {
        if (stream.trailers !== undefined) {
          this.#shiftReady();
          const frames = this.#headerFrames(stream.id, stream.trailers, true);
          stream.trailers = undefined;
          this.#control.push(frames);
          this.#queuedTotal += frames.length;
          this.#closeLocal(stream);
          at = this.#fillControl(out, at);
        } else if (stream.ending) {
          if (out.length - at < FRAME_HEADER) break;
          this.#shiftReady();
          writeHead(out, at, 0, { type: FrameType.data, flags: Flag.endStream, streamId: stream.id });
          at += FRAME_HEADER;
          this.#queuedTotal += FRAME_HEADER;
          this.#closeLocal(stream);
        } else this.#shiftReady();
        continue;
      }
      if (stream.sendWindow <= 0) {
        this.#shiftReady();
        continue;
      }
      if (this.#sendWindow <= 0) {
        this.#shiftReady();
        this.#windowless.push(stream);
        continue;
      }
      const length = Math.min(
        stream.queuedBytes,
        this.#peerMaxFrame,
        DEFAULT_MAX_FRAME,
        stream.sendWindow,
        this.#sendWindow,
      );
      if (out.length - at < FRAME_HEADER + length) break;
      this.#shiftReady();
      stream.take(out, at + FRAME_HEADER, length);
      this.#sendWindow -= length;
      const last = stream.ending && stream.queuedBytes === 0 && stream.trailers === undefined;
      writeHead(out, at, length, {
        type: FrameType.data,
        flags: last ? Flag.endStream : 0,
        streamId: stream.id,
      });
      at += FRAME_HEADER + length;
      this.#queuedTotal += FRAME_HEADER;
      if (last) this.#closeLocal(stream);
      else if (stream.queuedBytes > 0 || stream.ending) this.makeReady(stream);
    }
    return at;
  }

  #fillControl(out: Uint8Array, from = 0): number {
    let at = from;
    let done = 0;
    for (const frames of this.#control) {
      const take = Math.min(frames.length - this.#controlOffset, out.length - at);
      out.set(
        this.#controlOffset === 0 && take === frames.length
          ? frames
          : frames.subarray(this.#controlOffset, this.#controlOffset + take),
        at,
      );
      at += take;
      this.#controlOffset += take;
      if (this.#controlOffset < frames.length) break;
      this.#controlOffset = 0;
      done++;
    }
    if (done === this.#control.length) this.#control = [];
    else this.#control.splice(0, done);
    return at;
  }

  #shiftReady(): void {
    const stream = this.#readyHead;
    if (stream === undefined) return;
    this.#readyHead = stream.next;
    if (this.#readyHead === undefined) this.#readyTail = undefined;
    stream.next = undefined;
    stream.ready = false;
  }

  #closeLocal(stream: H2Stream): void {
    stream.localClosed = true;
    if (stream.remoteClosed) return this.#remove(stream);
    // RFC 9113 section 8.1: a server that has answered asks for no more of the request.
    if (this.#server) stream.reset(ErrorCode.noError);
  }

  #closeRemote(stream: H2Stream): void {
    stream.remoteClosed = true;
    if (stream.localClosed) this.#remove(stream);
  }

  #remove(stream: H2Stream): void {
    if (stream.gone) return;
    this.#queuedTotal -= stream.drop();
    this.#streams.delete(stream.id);
    if (!this.#server && this.#state === "open") this.#handler.capacity?.();
    this.#maybeIdle();
  }

  #maybeIdle(): void {
    if (!this.#endWhenIdle || this.#streams.size > 0 || this.#state !== "open") return;
    if (this.#server && this.#acceptUpTo === MAX_WINDOW) return;
    // After the frames of this turn, which may hold the last answer.
    queueMicrotask(() => {
      this.#flush();
      if (this.#state !== "open" || this.#streams.size > 0) return;
      this.#state = "ending";
      this.#channel.end();
    });
  }

  #data(chunk: Uint8Array): void {
    if (this.#state !== "open") return;
    let bytes = chunk;
    try {
      if (this.#prefaceLeft.length > 0) bytes = this.#takePreface(bytes);
      this.#reader.push(bytes);
    } catch (error) {
      this.#fail(error);
    }
  }

  #takePreface(bytes: Uint8Array): Uint8Array {
    const length = Math.min(bytes.length, this.#prefaceLeft.length);
    for (let i = 0; i < length; i++) {
      if (bytes[i] !== this.#prefaceLeft[i]) {
        throw new ConnectionError(ErrorCode.protocolError, "connection does not begin with the HTTP/2 preface");
      }
    }
    this.#prefaceLeft = this.#prefaceLeft.subarray(length);
    return bytes.subarray(length);
  }

  #frame(head: FrameHead, payload: Uint8Array): void {
    if (this.#state !== "open") return;
    const { type, streamId } = head;
    if (!this.#settingsSeen) {
      if (type !== FrameType.settings || (head.flags & Flag.ack) !== 0) {
        throw new ConnectionError(ErrorCode.protocolError, "the first frame is not SETTINGS");
      }
      this.#settingsSeen = true;
      clearTimeout(this.#handshakeTimer);
    }
    if (this.#block !== undefined && (type !== FrameType.continuation || streamId !== this.#block.streamId)) {
      throw new ConnectionError(ErrorCode.protocolError, "header block interrupted by another frame");
    }
    switch (type) {
      case FrameType.data:
        return this.#onData(head, payload);
      case FrameType.headers:
        return this.#onHeaders(head, payload);
      case FrameType.continuation:
        return this.#onContinuation(head, payload);
      case FrameType.rstStream:
        return this.#onReset(streamId, payload);
      case FrameType.windowUpdate:
        return this.#onWindowUpdate(streamId, payload);
      case FrameType.settings:
        return this.#onSettings(head, payload);
      case FrameType.ping:
        return this.#onPing(head, payload);
      case FrameType.goaway:
        return this.#onGoaway(streamId, payload);
      case FrameType.pushPromise:
        throw new ConnectionError(ErrorCode.protocolError, "PUSH_PROMISE is not enabled");
      case FrameType.priority:
        if (streamId === 0) throw new ConnectionError(ErrorCode.protocolError, "PRIORITY without stream");
        if (payload.length !== 5) this.#sendReset(streamId, ErrorCode.frameSizeError);
        return this.#countEmpty();
      default:
        return this.#countEmpty();
    }
  }

  #onData(head: FrameHead, whole: Uint8Array): void {
    const { streamId, flags } = head;
    if (streamId === 0) throw new ConnectionError(ErrorCode.protocolError, "DATA without stream");
    this.#receiveWindow -= whole.length;
    if (this.#receiveWindow < 0) throw new ConnectionError(ErrorCode.flowControlError, "connection window overrun");
    this.#received += whole.length;
    if (this.#received >= CONNECTION_WINDOW / 2) {
      this.#receiveWindow += this.#received;
      this.sendWindowUpdate(0, this.#received);
      this.#received = 0;
    }
    const payload = (flags & Flag.padded) !== 0 ? unpadded(whole) : whole;
    const stream = this.#streams.get(streamId);
    if (stream === undefined) return this.#checkOnceOpen(streamId, "DATA");
    if (stream.remoteClosed) return this.#streamError(stream, ErrorCode.streamClosed, "DATA behind END_STREAM");
    stream.receiveWindow -= whole.length;
    if (stream.receiveWindow < 0) return this.#streamError(stream, ErrorCode.flowControlError, "stream window overrun");
    const end = (flags & Flag.endStream) !== 0;
    if (payload.length < whole.length) stream.consumed(whole.length - payload.length);
    if (payload.length === 0 && !end) return this.#countEmpty();
    const { handler } = stream;
    if (end) this.#closeRemote(stream);
    if (handler === undefined) stream.consumed(payload.length);
    else handler.data(payload, end);
  }

  #onHeaders(head: FrameHead, whole: Uint8Array): void {
    const { streamId, flags } = head;
    if (streamId === 0) throw new ConnectionError(ErrorCode.protocolError, "HEADERS without stream");
    let payload = (flags & Flag.padded) !== 0 ? unpadded(whole) : whole;
    if ((flags & Flag.priority) !== 0) {
      if (payload.length < 5) throw new ConnectionError(ErrorCode.frameSizeError, "HEADERS too short for its priority");
      payload = payload.subarray(5);
    }
    if ((flags & Flag.endHeaders) !== 0) return this.#onBlock(streamId, flags, payload);
    this.#block = { streamId, flags, parts: [payload], size: payload.length, frames: 0 };
  }

  #onContinuation(head: FrameHead, payload: Uint8Array): void {
    const block = this.#block;
    if (block === undefined) throw new ConnectionError(ErrorCode.protocolError, "CONTINUATION without HEADERS");
    block.parts.push(payload);
    block.size += payload.length;
    block.frames++;
    if (block.size > MAX_HEADER_BLOCK || block.frames > MAX_CONTINUATIONS) {
      throw new ConnectionError(ErrorCode.enhanceYourCalm, "header block is too long");
    }
    if ((head.flags & Flag.endHeaders) === 0) return;
    this.#block = undefined;
    this.#onBlock(block.streamId, block.flags, Buffer.concat(block.parts));
  }

  #onBlock(streamId: number, flags: number, bytes: Uint8Array): void {
    const block = this.#decoder.decode(bytes);
    const end = (flags & Flag.endStream) !== 0;
    const stream = this.#streams.get(streamId);
    if (stream === undefined) {
      if (this.#server && streamId > this.#lastPeerId) return this.#onNewStream(streamId, block, end);
      return this.#checkOnceOpen(streamId, "HEADERS");
    }
    if (stream.remoteClosed) return this.#streamError(stream, ErrorCode.streamClosed, "HEADERS behind END_STREAM");
    if (this.#server && !end)
      return this.#streamError(stream, ErrorCode.protocolError, "trailers do not end the stream");
    this.#deliver(stream, block, end);
  }

  #onNewStream(streamId: number, block: HeaderBlock, end: boolean): void {
    if (streamId % 2 === 0) throw new ConnectionError(ErrorCode.protocolError, `client opened stream ${streamId}`);
    this.#lastPeerId = streamId;
    if (streamId > this.#acceptUpTo) return;
    if (this.#streams.size >= this.#maxConcurrent) {
      if (!this.#resets.take()) throw new ConnectionError(ErrorCode.enhanceYourCalm, "too many streams");
      return this.#sendReset(streamId, ErrorCode.refusedStream);
    }
    const stream = new H2Stream(this, streamId, this.#peerInitialWindow);
    this.#streams.set(streamId, stream);
    this.#handler.opened?.(stream);
    if (stream.handler === undefined) return stream.reset(ErrorCode.refusedStream);
    this.#deliver(stream, block, end);
  }

  #deliver(stream: H2Stream, block: HeaderBlock, end: boolean): void {
    const problem = block.truncated ? undefined : malformed(block.fields, this.#server);
    if (problem !== undefined) return this.#streamError(stream, ErrorCode.protocolError, problem);
    const { handler } = stream;
    if (end) this.#closeRemote(stream);
    handler?.headers(block.fields, end, block.truncated);
  }

  #onReset(streamId: number, payload: Uint8Array): void {
    if (payload.length !== 4) throw new ConnectionError(ErrorCode.frameSizeError, "RST_STREAM of wrong length");
    if (streamId === 0) throw new ConnectionError(ErrorCode.protocolError, "RST_STREAM without stream");
    if (this.#server && !this.#resets.take()) {
      throw new ConnectionError(ErrorCode.enhanceYourCalm, "too many streams were reset");
    }
    const stream = this.#streams.get(streamId);
    // Also on a stream that never was: gRPC's C core resets calls it cancelled before their headers left.
    if (stream === undefined) return;
    const { handler } = stream;
    this.#remove(stream);
    handler?.aborted(resetByPeer(readUint32(payload, 0)));
  }

  #onWindowUpdate(streamId: number, payload: Uint8Array): void {
    if (payload.length !== 4) throw new ConnectionError(ErrorCode.frameSizeError, "WINDOW_UPDATE of wrong length");
    const increment = readUint31(payload, 0);
    if (streamId === 0) {
      if (increment === 0) throw new ConnectionError(ErrorCode.protocolError, "WINDOW_UPDATE of zero");
      this.#sendWindow += increment;
      if (this.#sendWindow > MAX_WINDOW) throw new ConnectionError(ErrorCode.flowControlError, "window too large");
      const waiting = this.#windowless;
      this.#windowless = [];
      for (const stream of waiting) this.makeReady(stream);
      return;
    }
    const stream = this.#streams.get(streamId);
    if (stream === undefined) return this.#countEmpty();
    if (increment === 0) return this.#streamError(stream, ErrorCode.protocolError, "WINDOW_UPDATE of zero");
    stream.sendWindow += increment;
    if (stream.sendWindow > MAX_WINDOW) {
      return this.#streamError(stream, ErrorCode.flowControlError, "window too large");
    }
    if (stream.queuedBytes > 0) this.makeReady(stream);
  }

  #onSettings(head: FrameHead, payload: Uint8Array): void {
    if (head.streamId !== 0) throw new ConnectionError(ErrorCode.protocolError, "SETTINGS on a stream");
    if ((head.flags & Flag.ack) !== 0) {
      if (payload.length !== 0) throw new ConnectionError(ErrorCode.frameSizeError, "SETTINGS ack with payload");
      return;
    }
    if (payload.length % 6 !== 0) throw new ConnectionError(ErrorCode.frameSizeError, "SETTINGS of wrong length");
    this.#countEmpty();
    for (let at = 0; at < payload.length; at += 6) {
      this.#setting(((payload[at] ?? 0) << 8) | (payload[at + 1] ?? 0), readUint32(payload, at + 2));
    }
    this.#answer({ type: FrameType.settings, flags: Flag.ack, streamId: 0 }, EMPTY);
  }

  #setting(id: number, value: number): void {
    switch (id) {
      case Setting.headerTableSize:
        return this.#encoder.setPeerLimit(value);
      case Setting.enablePush:
        if (value > 1) throw new ConnectionError(ErrorCode.protocolError, `ENABLE_PUSH is ${value}`);
        return;
      case Setting.maxConcurrentStreams:
        this.#peerMaxStreams = value;
        if (!this.#server) this.#handler.capacity?.();
        return;
      case Setting.initialWindowSize: {
        if (value > MAX_WINDOW)
          throw new ConnectionError(ErrorCode.flowControlError, `INITIAL_WINDOW_SIZE is ${value}`);
        const change = value - this.#peerInitialWindow;
        this.#peerInitialWindow = value;
        for (const stream of this.#streams.values()) {
          stream.sendWindow += change;
          if (stream.sendWindow > MAX_WINDOW) {
            throw new ConnectionError(ErrorCode.flowControlError, "window too large by INITIAL_WINDOW_SIZE");
          }
          if (change > 0 && stream.queuedBytes > 0) this.makeReady(stream);
        }
        return;
      }
      case Setting.maxFrameSize:
        if (value < DEFAULT_MAX_FRAME || value > LARGEST_MAX_FRAME) {
          throw new ConnectionError(ErrorCode.protocolError, `MAX_FRAME_SIZE is ${value}`);
        }
        this.#peerMaxFrame = value;
        return;
      case Setting.maxHeaderListSize:
        this.#peerMaxHeaderList = value;
        return;
      default:
    }
  }

  #onPing(head: FrameHead, payload: Uint8Array): void {
    if (payload.length !== 8) throw new ConnectionError(ErrorCode.frameSizeError, "PING of wrong length");
    if (head.streamId !== 0) throw new ConnectionError(ErrorCode.protocolError, "PING on a stream");
    if ((head.flags & Flag.ack) === 0) {
      return this.#answer({ type: FrameType.ping, flags: Flag.ack, streamId: 0 }, payload);
    }
    const number = readUint32(payload, 4);
    const answered = this.#pings.get(number);
    this.#pings.delete(number);
    answered?.();
  }

  #onGoaway(streamId: number, payload: Uint8Array): void {
    if (payload.length < 8) throw new ConnectionError(ErrorCode.frameSizeError, "GOAWAY of wrong length");
    if (streamId !== 0) throw new ConnectionError(ErrorCode.protocolError, "GOAWAY on a stream");
    const last = readUint31(payload, 0);
    const code = readUint32(payload, 4);
    const debug = new TextDecoder().decode(payload.subarray(8));
    this.#peerGone = true;
    if (!this.#server) {
      const message = `connection is going away: ${errorCodeName(code)}${debug === "" ? "" : `, debug data: ${JSON.stringify(debug)}`}`;
      for (const stream of Array.from(this.#streams.values())) {
        if (stream.id <= last) continue;
        const { handler } = stream;
        this.#remove(stream);
        handler?.aborted(connectionLost(message, true));
      }
      this.#endWhenIdle = true;
    }
    this.#handler.goaway?.(last, code, debug);
    this.#maybeIdle();
  }

  /** An answer to a frame. A peer that makes us answer without reading is shown the door. */
  #answer(head: FrameHead, payload: Uint8Array): void {
    if (this.#control.length > MAX_QUEUED_CONTROL && this.#unsent.length > 0) {
      throw new ConnectionError(ErrorCode.enhanceYourCalm, "too many answers wait to be read");
    }
    this.#pushFrame(head, payload);
  }

  #countEmpty(): void {
    if (!this.#empties.take()) throw new ConnectionError(ErrorCode.enhanceYourCalm, "too many empty frames");
  }

  /** A frame on a stream that is over is late and dropped; one on a stream that never was breaks the protocol. */
  #checkOnceOpen(streamId: number, what: string): void {
    const ours = streamId % 2 === (this.#server ? 0 : 1);
    const known = ours ? streamId < this.#nextId && !this.#server : streamId <= this.#lastPeerId;
    if (!known) throw new ConnectionError(ErrorCode.protocolError, `${what} on idle stream ${streamId}`);
  }

  #streamError(stream: H2Stream, code: number, message: string): void {
    const { handler } = stream;
    this.resetStream(stream, code);
    handler?.aborted({ code, by: "us", unprocessed: false, message: `${errorCodeName(code)}: ${message}` });
  }

  #fail(error: unknown): void {
    if (this.#state !== "open") return;
    const known = error instanceof ConnectionError;
    const failure = known ? error : new ConnectionError(ErrorCode.internalError, String(error));
    this.#cause = failure;
    this.end(failure.code, failure.message);
  }

  #cause: Error | undefined;

  #closed(cause: Error | undefined): void {
    if (this.#state === "closed") return;
    this.#state = "closed";
    clearTimeout(this.#handshakeTimer);
    const reason = this.#cause ?? cause;
    this.#abortAll(reason === undefined ? "error reading from server: EOF" : `connection lost: ${reason.message}`);
    this.#control = [];
    this.#unsent = EMPTY;
    this.#readyHead = undefined;
    this.#readyTail = undefined;
    this.#windowless = [];
    this.#pings.clear();
    this.#handler.closed?.(reason);
  }

  #abortAll(message: string): void {
    for (const stream of Array.from(this.#streams.values())) {
      const { handler } = stream;
      this.#remove(stream);
      handler?.aborted(connectionLost(this.#cause === undefined ? message : this.#cause.message));
    }
  }
}

function unpadded(payload: Uint8Array): Uint8Array {
  const padding = payload[0];
  if (padding === undefined || padding >= payload.length) {
    throw new ConnectionError(ErrorCode.protocolError, "padding is longer than its frame");
  }
  return payload.subarray(1, payload.length - padding);
}

/** What is wrong with a header block by RFC 9113 sections 8.2 and 8.3, or undefined. */
function malformed(fields: readonly HeaderField[], request: boolean): string | undefined {
  let regular = false;
  let seen = "";
  for (const [name, value] of fields) {
    if (name.startsWith(":")) {
      if (regular) return `pseudo-header ${name} behind others`;
      if (seen.includes(name)) return `pseudo-header ${name} twice`;
      seen += name;
      if (!knownPseudo(name, request)) return `unknown pseudo-header ${name}`;
      continue;
    }
    regular = true;
    if (!isHeaderName(name)) return `malformed header name ${JSON.stringify(name)}`;
    if (!isHeaderValue(value)) return `malformed value of header ${name}`;
    switch (name) {
      case "connection":
      case "transfer-encoding":
      case "upgrade":
      case "keep-alive":
        return `header ${name} is not for HTTP/2`;
      case "te":
        if (value !== "trailers") return `header te is ${JSON.stringify(value)}`;
        break;
      default:
    }
  }
  return undefined;
}

function knownPseudo(name: string, request: boolean): boolean {
  if (!request) return name === ":status";
  return name === ":method" || name === ":scheme" || name === ":path" || name === ":authority";
}

// By hand, not by pattern: a pattern is compiled at its first use, and a command line makes one call.
function isHeaderName(name: string): boolean {
  for (let i = 0; i < name.length; i++) {
    const c = name.charCodeAt(i);
    const letter = (c >= 0x61 && c <= 0x7a) || c === 0x2d || (c >= 0x30 && c <= 0x39);
    if (!letter && !"!#$%&'*+.^_`|~".includes(name.charAt(i))) return false;
  }
  return name.length > 0;
}

function isHeaderValue(value: string): boolean {
  for (let i = 0; i < value.length; i++) {
    const c = value.charCodeAt(i);
    if (c === 0 || c === 10 || c === 13) return false;
  }
  return true;
}
