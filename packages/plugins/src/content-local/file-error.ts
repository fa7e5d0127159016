import { ClassifiedError, classified, type ErrorClass, messageOf } from "@stevedore/base";

const CLASSES: ReadonlyMap<string, { readonly errorClass: ErrorClass; readonly text: string }> = new Map([
  ["ENOSPC", { errorClass: "resource-exhausted", text: "no space left on device" }],
  ["EDQUOT", { errorClass: "resource-exhausted", text: "disk quota exceeded" }],
  ["EROFS", { errorClass: "failed-precondition", text: "read-only file system" }],
  ["EIO", { errorClass: "data-loss", text: "input/output error" }],
  ["EMFILE", { errorClass: "resource-exhausted", text: "too many open files" }],
  ["ENOENT", { errorClass: "not-found", text: "no such file or directory" }],
]);

/** A failure of the file system with what was being done; the class is the cause's where that tells one. */
export function fileError(doing: string, error: unknown): ClassifiedError {
  if (error instanceof ClassifiedError) return error;
  const known = CLASSES.get(codeOf(error) ?? "");
  return classified(known?.errorClass ?? "unknown", `${doing}: ${known?.text ?? messageOf(error)}`, { cause: error });
}

export function isNotFound(error: unknown): boolean {
  return codeOf(error) === "ENOENT";
}

export function codeOf(error: unknown): string | undefined {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : undefined;
}
