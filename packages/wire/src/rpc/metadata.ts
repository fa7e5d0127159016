/**
 * Headers of a call, the same for every carrier: lower-case keys, several values a key in order of arrival. Values of
 * keys that end in `-bin` are base64 text here; carriers pass them through.
 */
export class Metadata {
  readonly #values = new Map<string, string[]>();

  /** The first value of a key, or undefined. */
  get(key: string): string | undefined {
    return this.#values.get(key.toLowerCase())?.[0];
  }

  /** All values of a key, oldest first; empty when there are none. The array is the caller's. */
  all(key: string): string[] {
    return [...(this.#values.get(key.toLowerCase()) ?? [])];
  }

  has(key: string): boolean {
    return this.#values.has(key.toLowerCase());
  }

  /** Replaces all values of a key by one. */
  set(key: string, value: string): void {
    this.#values.set(key.toLowerCase(), [value]);
  }

  /** Adds a value behind those a key has. */
  append(key: string, value: string): void {
    const lower = key.toLowerCase();
    const values = this.#values.get(lower);
    if (values === undefined) this.#values.set(lower, [value]);
    else values.push(value);
  }

  delete(key: string): void {
    this.#values.delete(key.toLowerCase());
  }

  get size(): number {
    return this.#values.size;
  }

  /** Every key with its values, in order of first arrival. */
  *entries(): IterableIterator<readonly [key: string, values: readonly string[]]> {
    yield* this.#values.entries();
  }

  [Symbol.iterator](): IterableIterator<readonly [key: string, values: readonly string[]]> {
    return this.entries();
  }

  /** A copy, of a Metadata or of plain pairs. */
  static from(source: Metadata | Readonly<Record<string, string | readonly string[]>> = {}): Metadata {
    const made = new Metadata();
    const pairs = source instanceof Metadata ? source.entries() : Object.entries(source);
    for (const [key, value] of pairs) {
      if (typeof value === "string") made.append(key, value);
      else for (const each of value) made.append(key, each);
    }
    return made;
  }
}
