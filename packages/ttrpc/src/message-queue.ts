/**
 * Messages of one stream on their way from a connection to whoever reads them. One reader. The queue itself never
 * refuses; its owner watches `length` and pauses the connection.
 */
export class MessageQueue<T> implements AsyncIterableIterator<T> {
  readonly #items: T[] = [];
  #end: { readonly error?: unknown } | undefined;
  #reader: PromiseWithResolvers<IteratorResult<T>> | undefined;
  readonly #taken: () => void;
  readonly #abandoned: () => void;

  /**
   * @param hooks `taken` runs after each message that left the queue, `abandoned` when the reader leaves before the end.
   */
  constructor(hooks: { readonly taken?: () => void; readonly abandoned?: () => void } = {}) {
    this.#taken = hooks.taken ?? (() => undefined);
    this.#abandoned = hooks.abandoned ?? (() => undefined);
  }

  /** Messages that wait. */
  get length(): number {
    return this.#items.length;
  }

  get ended(): boolean {
    return this.#end !== undefined;
  }

  /** Adds a message; dropped when the stream has ended. */
  push(item: T): void {
    if (this.#end !== undefined) return;
    const reader = this.#reader;
    if (reader === undefined) {
      this.#items.push(item);
      return;
    }
    this.#reader = undefined;
    reader.resolve({ done: false, value: item });
  }

  /** No more messages: the reader gets those that wait, then the end. */
  end(): void {
    if (this.#end !== undefined) return;
    this.#end = {};
    this.#reader?.resolve({ done: true, value: undefined });
    this.#reader = undefined;
  }

  /** The stream broke: the reader gets those that wait, then the error. */
  fail(error: unknown): void {
    if (this.#end !== undefined) return;
    this.#end = { error };
    if (this.#reader !== undefined) {
      this.#end = {};
      this.#reader.reject(error);
      this.#reader = undefined;
    }
  }

  async next(): Promise<IteratorResult<T>> {
    const item = this.#items.shift();
    if (item !== undefined) {
      this.#taken();
      return { done: false, value: item };
    }
    const end = this.#end;
    if (end !== undefined) {
      this.#end = {};
      if ("error" in end) throw end.error;
      return { done: true, value: undefined };
    }
    if (this.#reader !== undefined) throw new Error("read stream: another read is waiting");
    this.#reader = Promise.withResolvers();
    return this.#reader.promise;
  }

  async return(): Promise<IteratorResult<T>> {
    if (this.#end === undefined || this.#items.length > 0) {
      this.#end = {};
      this.#items.length = 0;
      this.#reader?.resolve({ done: true, value: undefined });
      this.#reader = undefined;
      this.#abandoned();
    }
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
