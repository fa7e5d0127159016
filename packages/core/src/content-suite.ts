import { describe, expect, test } from "bun:test";
import { type ErrorClass, errorClassOf, type RequestContext } from "@stevedore/base";
import { digestOf } from "@stevedore/oci/digest";
import type { ContentStore, ContentWriter } from "./content.ts";

/** A content store for one test; disposed afterwards. */
export interface ContentFixture extends AsyncDisposable {
  readonly store: ContentStore;
  readonly context: RequestContext;
}

/** Where stores may differ, and why. */
export interface ContentDifferences {
  /** A backend below the metadata store keeps no labels. */
  readonly labels: boolean;
  /** Message of Info for a missing digest: containerd's local and metadata stores word it differently. */
  readonly missing: (digest: string) => string;
  /** Message of a writer without a ref, where it is not the stores'. */
  readonly withoutRef?: string;
}

export async function refusalOf(attempt: Promise<unknown>): Promise<{ errorClass: ErrorClass; message: string }> {
  try {
    await attempt;
  } catch (error) {
    return { errorClass: errorClassOf(error), message: error instanceof Error ? error.message : String(error) };
  }
  throw new Error("the call succeeded");
}

export async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const item of items) list.push(item);
  return list;
}

/** Writes a blob in one go. */
export async function writeBlob(
  fixture: Pick<ContentFixture, "store" | "context">,
  ref: string,
  bytes: Uint8Array,
): Promise<string> {
  await using writer = await fixture.store.writer(fixture.context, { ref });
  await writer.write(bytes);
  return await writer.commit(fixture.context, { size: bytes.byteLength, expected: digestOf(bytes) });
}

const MISSING = `sha256:${"0".repeat(64)}`;
const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);

/** What every content store does. */
export function contentSuite(name: string, make: () => Promise<ContentFixture>, differences: ContentDifferences): void {
  describe(`content store: ${name}`, () => {
    test("a committed blob is found, read and listed by its digest", async () => {
      await using fixture = await make();
      const { store, context } = fixture;
      const bytes = bytesOf("hello, blob");
      const digest = await writeBlob(fixture, "ref-1", bytes);
      expect(digest).toBe(digestOf(bytes));
      expect(await store.info(context, digest)).toMatchObject({ digest, size: bytes.byteLength, labels: {} });
      await using reader = await store.open(context, digest);
      expect(reader.size).toBe(bytes.byteLength);
      expect(Buffer.from(await reader.readAt(0, 1000)).toString()).toBe("hello, blob");
      expect(Buffer.from(await reader.readAt(7, 2)).toString()).toBe("bl");
      expect((await reader.readAt(bytes.byteLength, 10)).byteLength).toBe(0);
      expect((await refusalOf(reader.readAt(-1, 1))).errorClass).toBe("out-of-range");
      expect((await collect(store.list(context, []))).map((info) => info.digest)).toEqual([digest]);
      expect(await collect(store.list(context, [`digest==${digest},size==${bytes.byteLength}`]))).toHaveLength(1);
      expect(await collect(store.list(context, ["size==1"]))).toEqual([]);
      expect(await store.listStatuses(context, [])).toEqual([]);
    });

    test("an ingest goes on where it was left", async () => {
      await using fixture = await make();
      const { store, context } = fixture;
      {
        await using writer = await store.writer(context, { ref: "resumed", total: 10 });
        await writer.write(bytesOf("01234"));
      }
      const status = await store.status(context, "resumed");
      expect(status).toMatchObject({ ref: "resumed", offset: 5, total: 10 });
      expect((await store.listStatuses(context, ["ref==resumed"])).map((each) => each.offset)).toEqual([5]);
      expect(await store.listStatuses(context, ["ref==other"])).toEqual([]);
      await using writer = await store.writer(context, { ref: "resumed", total: 10 });
      expect(writer.status()).toMatchObject({ ref: "resumed", offset: 5, total: 10 });
      expect(writer.digest()).toBe(digestOf("01234"));
      expect(writer.status().startedAt.getTime()).toBe(status.startedAt.getTime());
      await writer.write(bytesOf("56789"));
      expect(await writer.commit(context, { size: 10 })).toBe(digestOf("0123456789"));
      expect((await refusalOf(store.status(context, "resumed"))).errorClass).toBe("not-found");
    });

    test("one writer per ref: a second is refused with how long it is held", async () => {
      await using fixture = await make();
      const { store, context } = fixture;
      const writer = await store.writer(context, { ref: "busy" });
      const refusal = await refusalOf(store.writer(context, { ref: "busy" }));
      expect(refusal.errorClass).toBe("unavailable");
      expect(refusal.message).toMatch(/^ref .*busy locked for \S+ \(since .+\): unavailable$/);
      await writer[Symbol.asyncDispose]();
      await using again = await store.writer(context, { ref: "busy" });
      expect(again.status().offset).toBe(0);
    });

    test("truncate(0) starts anew, another size is refused", async () => {
      await using fixture = await make();
      const { store, context } = fixture;
      await using writer = await store.writer(context, { ref: "cut" });
      await writer.write(bytesOf("wrong"));
      expect((await refusalOf(writer.truncate(2))).errorClass).toBe("invalid-argument");
      await writer.truncate(5);
      await writer.truncate(0);
      expect(writer.status().offset).toBe(0);
      await writer.write(bytesOf("right"));
      expect(await writer.commit(context)).toBe(digestOf("right"));
    });

    test("commit() refuses another size or digest and keeps the ingest", async () => {
      await using fixture = await make();
      const { store, context } = fixture;
      const attempt = async (ref: string, change: (writer: ContentWriter) => Promise<unknown>): Promise<void> => {
        await using writer = await store.writer(context, { ref });
        await writer.write(bytesOf("abc"));
        expect((await refusalOf(change(writer))).errorClass).toBe("failed-precondition");
        expect((await refusalOf(writer.commit(context))).errorClass).toBe("failed-precondition");
        expect((await refusalOf(writer.write(bytesOf("x")))).errorClass).toBe("failed-precondition");
      };
      await attempt("size", (writer) => writer.commit(context, { size: 4 }));
      await attempt("digest", (writer) => writer.commit(context, { size: 3, expected: MISSING }));
      expect(await collect(store.list(context, []))).toEqual([]);
      expect((await store.listStatuses(context, [])).map((status) => status.offset)).toEqual([3, 3]);
      await using writer = await store.writer(context, { ref: "size" });
      expect(await writer.commit(context, { size: 3 })).toBe(digestOf("abc"));
    });

    test("a blob that is there already answers already-exists, at commit and when asked for", async () => {
      await using fixture = await make();
      const { store, context } = fixture;
      const digest = await writeBlob(fixture, "first", bytesOf("same"));
      await using writer = await store.writer(context, { ref: "second" });
      await writer.write(bytesOf("same"));
      expect(await refusalOf(writer.commit(context))).toEqual({
        errorClass: "already-exists",
        message: `content ${digest}: already exists`,
      });
      expect(await store.listStatuses(context, [])).toEqual([]);
      expect(await refusalOf(store.writer(context, { ref: "third", expected: digest }))).toEqual({
        errorClass: "already-exists",
        message: `content ${digest}: already exists`,
      });
    });

    test("abort() drops an ingest, delete() a blob; twice is not-found", async () => {
      await using fixture = await make();
      const { store, context } = fixture;
      {
        await using writer = await store.writer(context, { ref: "gone" });
        await writer.write(bytesOf("x"));
      }
      await store.abort(context, "gone");
      expect((await refusalOf(store.abort(context, "gone"))).errorClass).toBe("not-found");
      expect((await refusalOf(store.status(context, "gone"))).errorClass).toBe("not-found");
      const digest = await writeBlob(fixture, "ref", bytesOf("x"));
      await store.delete(context, digest);
      for (const attempt of [
        (): Promise<unknown> => store.info(context, digest),
        (): Promise<unknown> => store.delete(context, digest),
        (): Promise<unknown> => store.open(context, digest),
      ]) {
        expect((await refusalOf(attempt())).errorClass).toBe("not-found");
      }
      expect((await refusalOf(store.info(context, MISSING))).message).toBe(differences.missing(MISSING));
    });

    test("an empty blob and an empty ref", async () => {
      await using fixture = await make();
      const { store, context } = fixture;
      const digest = await writeBlob(fixture, "empty", new Uint8Array());
      expect((await store.info(context, digest)).size).toBe(0);
      expect(await refusalOf(store.writer(context, { ref: "" }))).toEqual({
        errorClass: "invalid-argument",
        message: differences.withoutRef ?? "ref must not be empty: invalid argument",
      });
    });

    test.each(["sha384", "sha512"] as const)("blobs are kept under %s when asked for", async (algorithm) => {
      await using fixture = await make();
      const { store, context } = fixture;
      const expected = digestOf("other hash", algorithm);
      await using writer = await store.writer(context, { ref: "a", expected, algorithm });
      await writer.write(bytesOf("other hash"));
      expect(await writer.commit(context, { expected })).toBe(expected);
      // Also when only the commit tells: the ingest is hashed again.
      const late = digestOf("late", algorithm);
      await using second = await store.writer(context, { ref: "b" });
      await second.write(bytesOf("late"));
      expect(await second.commit(context, { expected: late })).toBe(late);
      expect((await store.info(context, late)).size).toBe(4);
    });

    test("many refs at once, of any characters", async () => {
      await using fixture = await make();
      const { store, context } = fixture;
      const refs = Array.from({ length: 20 }, (_, i) => `../${"é/".repeat(i)}${i} \n"'`);
      const digests = await Promise.all(refs.map((ref, i) => writeBlob(fixture, ref, bytesOf(`blob ${i}`))));
      const listed = (await collect(store.list(context, []))).map((info) => info.digest);
      expect(listed).toEqual(digests.toSorted());
    });

    test("labels change by mask", async () => {
      await using fixture = await make();
      const { store, context } = fixture;
      const digest = await writeBlob(fixture, "ref", bytesOf("labelled"));
      if (!differences.labels) {
        expect((await refusalOf(store.update(context, { digest, labels: { a: "1" } }, []))).errorClass).toBe(
          "failed-precondition",
        );
        return;
      }
      const before = await store.info(context, digest);
      expect((await store.update(context, { digest, labels: { a: "1", b: "2" } }, [])).labels).toEqual({
        a: "1",
        b: "2",
      });
      const after = await store.update(context, { digest, labels: { a: "", c: "3" } }, ["labels.a", "labels.c"]);
      expect(after.labels).toEqual({ b: "2", c: "3" });
      expect(after.updatedAt.getTime()).toBeGreaterThan(before.updatedAt.getTime());
      expect(await collect(store.list(context, ['labels."c"==3']))).toHaveLength(1);
      expect(await refusalOf(store.update(context, { digest, labels: {} }, ["size"]))).toEqual({
        errorClass: "invalid-argument",
        message: `cannot update "size" field on content info "${digest}": invalid argument`,
      });
      const long = await refusalOf(store.update(context, { digest, labels: { k: "v".repeat(4096) } }, []));
      expect(long).toEqual({
        errorClass: "invalid-argument",
        message:
          "info.Labels: label key and value length (4097 bytes) greater than maximum size (4096 bytes), key: k: invalid argument",
      });
      expect((await refusalOf(store.update(context, { digest: MISSING, labels: {} }, []))).errorClass).toBe(
        "not-found",
      );
    });
  });
}
