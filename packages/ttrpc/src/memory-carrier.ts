import type { Carrier, CarrierHandler, PeerCredentials } from "./carrier.ts";

/**
 * Two carriers joined in memory, for tests and for a client in the process of its server. Delivery is asynchronous and
 * in order. A side that pauses makes the other's writes wait once `highWater` bytes are under way.
 */
export function memoryCarriers(options: { readonly highWater?: number } = {}): [client: Carrier, server: Carrier] {
  const highWater = options.highWater ?? 64 << 10;
  const left = new MemoryCarrier(highWater);
  const right = new MemoryCarrier(highWater);
  left.join(right);
  right.join(left);
  return [left, right];
}

class MemoryCarrier implements Carrier {
  readonly peer: PeerCredentials = {};
  readonly #highWater: number;
  #other: MemoryCarrier | undefined;
  #handler: CarrierHandler | undefined;
  #inbox: Uint8Array[] = [];
  #inboxBytes = 0;
  #waiting: (() => void)[] = [];
  #paused = false;
  #scheduled = false;
  #ending = false;
  #closed = false;

  constructor(highWater: number) {
    this.#highWater = highWater;
  }

  join(other: MemoryCarrier): void {
    this.#other = other;
  }

  start(handler: CarrierHandler): void {
    this.#handler = handler;
    this.#schedule();
  }

  write(bytes: Uint8Array): Promise<void> | undefined {
    const other = this.#other;
    if (this.#closed || this.#ending || other === undefined || other.#closed) return undefined;
    return other.#take(bytes);
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    this.#schedule();
  }

  end(): void {
    if (this.#ending) return;
    this.#ending = true;
    this.#other?.finish();
    queueMicrotask(() => this.#close());
  }

  destroy(): void {
    this.#ending = true;
    this.#inbox = [];
    this.#other?.finish();
    this.#close();
  }

  /** The other side sends no more. */
  finish(): void {
    this.#ending = true;
    this.#schedule();
  }

  #take(bytes: Uint8Array): Promise<void> | undefined {
    this.#inbox.push(bytes.slice());
    this.#inboxBytes += bytes.byteLength;
    this.#schedule();
    if (this.#inboxBytes < this.#highWater) return undefined;
    return new Promise((resolve) => this.#waiting.push(resolve));
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
    if (this.#handler === undefined) return;
    while (!this.#paused && !this.#closed) {
      const next = this.#inbox.shift();
      if (next === undefined) break;
      this.#inboxBytes -= next.byteLength;
      this.#handler.data(next);
    }
    if (this.#inboxBytes < this.#highWater) this.#wake();
    if (this.#ending && this.#inbox.length === 0) this.#close();
  }

  #wake(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) resolve();
  }

  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#wake();
    this.#handler?.closed();
  }
}
