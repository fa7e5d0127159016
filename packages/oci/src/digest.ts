import { classified } from "@stevedore/base";

/** Hash algorithms a digest may name. */
export type DigestAlgorithm = "sha256" | "sha384" | "sha512";

/** Hex digits of a digest, by algorithm. */
const HEX_LENGTH: Readonly<Record<DigestAlgorithm, number>> = { sha256: 64, sha384: 96, sha512: 128 };

/** The algorithm containerd computes digests with when it has the choice. */
export const CANONICAL_ALGORITHM: DigestAlgorithm = "sha256";

/** A digest in its two parts. */
export interface Digest {
  readonly algorithm: DigestAlgorithm;
  /** Lower-case hex. */
  readonly encoded: string;
}

const DIGEST = /^[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]+$/;
const HEX = /^[a-f0-9]+$/;

/**
 * Splits and checks `algorithm:hex`.
 *
 * @throws invalid-argument in go-digest's words: "invalid checksum digest format", "invalid checksum digest length" or
 * "unsupported digest algorithm".
 */
export function parseDigest(text: string): Digest {
  const colon = text.indexOf(":");
  if (colon <= 0 || colon + 1 === text.length) throw classified("invalid-argument", "invalid checksum digest format");
  const algorithm = text.slice(0, colon);
  const encoded = text.slice(colon + 1);
  if (!isDigestAlgorithm(algorithm)) {
    throw classified(
      "invalid-argument",
      DIGEST.test(text) ? "unsupported digest algorithm" : "invalid checksum digest format",
    );
  }
  if (encoded.length !== HEX_LENGTH[algorithm]) throw classified("invalid-argument", "invalid checksum digest length");
  if (!HEX.test(encoded)) throw classified("invalid-argument", "invalid checksum digest format");
  return { algorithm, encoded };
}

/** Whether `text` is a digest {@link parseDigest} takes. */
export function isDigest(text: string): boolean {
  const colon = text.indexOf(":");
  const algorithm = text.slice(0, Math.max(0, colon));
  if (!isDigestAlgorithm(algorithm)) return false;
  const encoded = text.slice(colon + 1);
  return encoded.length === HEX_LENGTH[algorithm] && HEX.test(encoded);
}

/** Whether a word names an algorithm that digests may have. */
export function isDigestAlgorithm(name: string): name is DigestAlgorithm {
  return Object.hasOwn(HEX_LENGTH, name);
}

/** The digest of bytes in memory. */
export function digestOf(bytes: Uint8Array | string, algorithm: DigestAlgorithm = CANONICAL_ALGORITHM): string {
  return new Digester(algorithm).update(bytes).digest();
}

/** What both runtimes' hashes can do. */
interface Hash {
  update(bytes: Uint8Array | string): unknown;
  copy(): Hash;
  digest(encoding: "hex"): string;
}

/** Bun's hash where there is Bun; Node's is loaded only where there is none, since loading it costs milliseconds. */
function newHash(algorithm: DigestAlgorithm): Hash {
  if (typeof Bun !== "undefined") return new Bun.CryptoHasher(algorithm);
  return process.getBuiltinModule("node:crypto").createHash(algorithm);
}

/** A digest computed while bytes pass by. */
export class Digester {
  readonly algorithm: DigestAlgorithm;
  readonly #hash: Hash;
  #size = 0;

  constructor(algorithm: DigestAlgorithm = CANONICAL_ALGORITHM, from?: Bun.CryptoHasher) {
    this.algorithm = algorithm;
    this.#hash = from ?? newHash(algorithm);
  }

  update(bytes: Uint8Array | string): this {
    this.#hash.update(bytes);
    this.#size += typeof bytes === "string" ? Buffer.byteLength(bytes) : bytes.byteLength;
    return this;
  }

  /** Bytes taken so far. */
  get size(): number {
    return this.#size;
  }

  /** The digest of what was taken so far; more may follow. */
  digest(): string {
    return `${this.algorithm}:${this.#hash.copy().digest("hex")}`;
  }
}

/** What a stream of bytes is expected to be. */
export interface ExpectedContent {
  readonly digest: string;
  /** Bytes; absent when not known. */
  readonly size?: number;
}

/**
 * Passes `chunks` on and checks them on the way: never more than the promised bytes, and at the end size and digest.
 *
 * @throws failed-precondition when size or digest differ; invalid-argument for a malformed digest.
 */
export async function* verified(
  chunks: AsyncIterable<Uint8Array>,
  expected: ExpectedContent,
): AsyncGenerator<Uint8Array> {
  const digester = new Digester(parseDigest(expected.digest).algorithm);
  for await (const chunk of chunks) {
    digester.update(chunk);
    if (expected.size !== undefined && digester.size > expected.size) throw sizeError(digester.size, expected.size);
    yield chunk;
  }
  if (expected.size !== undefined && digester.size !== expected.size) throw sizeError(digester.size, expected.size);
  const found = digester.digest();
  if (found !== expected.digest) {
    throw classified(
      "failed-precondition",
      `unexpected digest ${found}, expected ${expected.digest}: failed precondition`,
    );
  }
}

function sizeError(found: number, expected: number): Error {
  return classified("failed-precondition", `unexpected size ${found}, expected ${expected}: failed precondition`);
}
