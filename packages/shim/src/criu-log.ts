import { classified, messageOf } from "@stevedore/base/errors";

/** criu's log is long at its usual level; its errors are at the end. */
const TAIL_BYTES = 64 << 10;

/** Lines told: the first names the cause, the others what failed with it. */
const MAX_LINES = 4;
const MAX_LINE_LENGTH = 300;

/**
 * What criu complained of in a log: `Error (file.c:1): text` of each line, joined. "" when there is no log or no complaint
 * in it. Memory of the container is in no log line.
 */
export async function criuReason(log: string): Promise<string> {
  try {
    const file = Bun.file(log);
    const { size } = file;
    return errorsIn(await file.slice(Math.max(0, size - TAIL_BYTES), size).text());
  } catch {
    return "";
  }
}

/** As {@link criuReason}, of a text. */
export function errorsIn(text: string): string {
  const found: string[] = [];
  for (const line of text.split("\n")) {
    const at = line.indexOf("Error (");
    if (at >= 0) found.push(line.slice(at, at + MAX_LINE_LENGTH).trim());
  }
  // A child's bare end comes before its cause in some versions, and says nothing.
  const telling = found.filter((line) => !/: exited, status=\d+$/.test(line));
  return (telling.length > 0 ? telling : found).slice(0, MAX_LINES).join("; ");
}

/** The error with criu's own reason behind it, where its log gives one. The class stays unknown, as the runtime tells none. */
export async function withCriuReason(error: unknown, log: string): Promise<unknown> {
  const reason = await criuReason(log);
  return reason === "" ? error : classified("unknown", `${messageOf(error)}: criu: ${reason}`, { cause: error });
}
