import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MetadataDatabase, type MetadataOptions } from "./database.ts";

/** A folder for one test, removed afterwards. */
export async function temporaryFolder(): Promise<AsyncDisposable & { readonly path: string }> {
  const path = await mkdtemp(join(tmpdir(), "stevedore-metadata-"));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

/** A metadata file of its own for one test. */
export async function temporaryDatabase(
  options: Partial<MetadataOptions> = {},
): Promise<AsyncDisposable & { readonly database: MetadataDatabase }> {
  await using undo = new AsyncDisposableStack();
  const folder = undo.use(await temporaryFolder());
  const database = undo.use(await MetadataDatabase.open({ directory: folder.path, ...options }));
  const held = undo.move();
  return { database, [Symbol.asyncDispose]: () => held.disposeAsync() };
}
