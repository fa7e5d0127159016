import type { ByteChannel, ChannelHandler } from "./byte-channel.ts";

/**
 * Two channels joined in memory, for tests. Delivery is asynchronous and in order; each takes `room` bytes before the
 * other has read them.
 */
export function memoryChannels(options: { readonly room?: number } = {}): [left: ByteChannel, right: ByteChannel] {
  const room = options.room ?? 256 << 10;
  const left = new MemoryChannel(room);
  const right = new MemoryChannel(room);
  left.join(right);
  right.join(left);
  return [left, right];
}

class MemoryChannel implements ByteChannel {
  readonly peer = {};
  readonly #room: number;
  #other: MemoryChannel | undefined;
  #handler: ChannelHandler | undefined;
  #inbox: Uint8Array[] = [];
  #inboxBytes = 0;
  #refused = false;
  #finished = false;
  #closed = false;
  #scheduled = false;

  constructor(room: number) {
    this.#room = room;
  }

  join(other: MemoryChannel): void {
    this.#other = other;
  }

  start(handler: ChannelHandler): void {
    this.#handler = handler;
    this.#schedule();
  }

  write(bytes: Uint8Array): number {
    const other = this.#other;
    if (this.#closed || other === undefined || other.#closed || other.#finished) return 0;
    const taken = Math.min(bytes.length, other.#room - other.#inboxBytes);
    if (taken < bytes.length) this.#refused = true;
    if (taken > 0) {
      other.#inbox.push(bytes.slice(0, taken));
      other.#inboxBytes += taken;
      other.#schedule();
    }
    return taken;
  }

  end(): void {
    this.#other?.finish();
    this.finish();
  }

  destroy(): void {
    this.#inbox = [];
    this.#inboxBytes = 0;
    this.end();
  }

  /** The other side sends no more. */
  finish(): void {
    this.#finished = true;
    this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled || this.#closed) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#deliver();
    });
  }

  #deliver(): void {
    const handler = this.#handler;
    if (handler === undefined || this.#closed) return;
    const inbox = this.#inbox;
    this.#inbox = [];
    this.#inboxBytes = 0;
    for (const bytes of inbox) handler.data(bytes);
    const other = this.#other;
    if (other?.takeRefused() === true) other.#handler?.drained();
    if (this.#finished && this.#inbox.length === 0 && !this.#closed) {
      this.#closed = true;
      handler.closed();
    } else if (this.#inbox.length > 0) this.#schedule();
  }

  takeRefused(): boolean {
    const refused = this.#refused;
    this.#refused = false;
    return refused;
  }
}
