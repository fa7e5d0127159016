import { spawnSync } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isErrorClass } from "@stevedore/base";
import { digestOf, parseDigest } from "@stevedore/oci/digest";
import { readBlob } from "@stevedore/sdk/images/tree";
import { stringFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";

/** Largest blob that is put into an editor, bytes. */
const MAX_EDITED = 64 * 1024 * 1024;

/** `ctr content edit` */
export const command = ctrCommand({
  argsUsage: "[flags] <digest>",
  description: "edit a blob and return a new digest",
  flags: {
    validate: stringFlag("validate", "validate the result against a format (json, mediatype, etc.)"),
    editor: stringFlag("editor", "select editor (vim, emacs, etc.)", { env: ["EDITOR"] }),
  },
  action: async ({ args, flags, globals, io }) => {
    const [digest] = args;
    if (flags.validate !== "") throw new Error("validating the edit result not supported");
    if (digest === undefined || digest === "") throw new Error("must specify a blob to edit");
    if (flags.editor === "") throw new Error("editor must be provided: --editor or $EDITOR");
    parseDigest(digest);
    await using session = await globals.connect();
    const { client, context } = session;
    const before = await readBlob(client.content, context, { digest, limit: MAX_EDITED });
    const after = await edited(before, flags.editor);
    const made = digestOf(after);
    try {
      await using writer = await client.content.writer(context, { ref: `edit-${digest}`, total: after.byteLength });
      if (writer.status().offset > 0) await writer.truncate(0);
      await writer.write(after);
      await writer.commit(context, { size: after.byteLength, expected: made });
    } catch (error) {
      if (!isErrorClass(error, "already-exists")) throw error;
    }
    io.stdout.write(`${made}\n`);
    return 0;
  },
});

/** What a blob is after the user's editor had it. */
async function edited(bytes: Uint8Array, editor: string): Promise<Uint8Array> {
  const folder = await mkdtemp(join(tmpdir(), "edit-"));
  try {
    const path = join(folder, "blob");
    await writeFile(path, bytes);
    const { status, error } = spawnSync("sh", ["-c", `${editor} "$1"`, editor, path], { stdio: "inherit" });
    if (error !== undefined) throw error;
    if (status !== 0) throw new Error(`editor ${editor} ended with status ${status}`);
    return await readFile(path);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
