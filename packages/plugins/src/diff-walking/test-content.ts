import { createHash } from "node:crypto";
import { mkdir, open, writeFile } from "node:fs/promises";
import { classified } from "@stevedore/base";
import type { ContentInfo, ContentStore } from "@stevedore/core/content";

/** A content store of plain files, only for the tests of differs: no namespaces, no leases, one write at a time. */
export function createTestContent(
  dir: string,
  options: { readonly withFd?: boolean } = {},
): ContentStore & {
  put(bytes: Uint8Array): string;
  get(digest: string): Uint8Array;
} {
  const blobs = new Map<string, Uint8Array>();
  const infos = new Map<string, ContentInfo>();
  const pathOf = (digest: string): string => `${dir}/${digest.replace(":", "-")}`;
  const add = (bytes: Uint8Array, labels: Readonly<Record<string, string>>): string => {
    const digest = `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
    blobs.set(digest, bytes);
    infos.set(digest, { digest, size: bytes.byteLength, createdAt: new Date(), updatedAt: new Date(), labels });
    return digest;
  };
  const info = (digest: string): ContentInfo => {
    const found = infos.get(digest);
    if (found === undefined) throw classified("not-found", `content ${digest}: not found`);
    return found;
  };
  const missing = (): never => {
    throw classified("not-implemented", "test content: not implemented");
  };
  return {
    put: (bytes) => add(bytes, {}),
    get: (digest) => blobs.get(info(digest).digest) ?? new Uint8Array(),
    info: async (_context, digest) => Promise.resolve(info(digest)),
    update: async (_context, changed) => {
      const next = { ...info(changed.digest), labels: changed.labels };
      infos.set(changed.digest, next);
      return Promise.resolve(next);
    },
    list: missing,
    delete: missing,
    status: missing,
    listStatuses: missing,
    abort: async () => Promise.resolve(),
    open: async (_context, digest) => {
      const path = pathOf(info(digest).digest);
      const bytes = blobs.get(digest) ?? new Uint8Array();
      await mkdir(dir, { recursive: true });
      await writeFile(path, bytes);
      const file = await open(path, "r");
      return {
        size: bytes.byteLength,
        ...(options.withFd === false ? {} : { fd: file.fd }),
        readAt: async (offset: number, length: number) => {
          const buffer = new Uint8Array(length);
          const { bytesRead } = await file.read(buffer, 0, length, offset);
          return buffer.subarray(0, bytesRead);
        },
        [Symbol.asyncDispose]: () => file.close(),
      };
    },
    writer: async (_context, { ref }) => {
      let parts: Uint8Array[] = [];
      const all = (): Uint8Array => Buffer.concat(parts);
      return Promise.resolve({
        write: async (bytes: Uint8Array) => {
          parts.push(bytes.slice());
          return Promise.resolve();
        },
        commit: async (_commitContext, commit = {}) => Promise.resolve(add(all(), commit.labels ?? {})),
        status: () => ({
          ref,
          offset: all().byteLength,
          total: 0,
          expected: "",
          startedAt: new Date(),
          updatedAt: new Date(),
        }),
        digest: () => `sha256:${createHash("sha256").update(all()).digest("hex")}`,
        truncate: async () => {
          parts = [];
          return Promise.resolve();
        },
        [Symbol.asyncDispose]: async () => Promise.resolve(),
      });
    },
  };
}
