import { stat } from "node:fs/promises";
import { classified } from "@stevedore/base/errors";

/** The paths or URIs a client gave for a process's streams; "" for none. */
export interface StdioNames {
  readonly stdin: string;
  readonly stdout: string;
  readonly stderr: string;
  readonly terminal: boolean;
}

/** Where one output stream goes. */
export type OutputPlace =
  | { readonly kind: "null" }
  | { readonly kind: "fifo"; readonly path: string }
  | { readonly kind: "file"; readonly path: string };

/** Where a process's output goes, as its stdout name says. */
export type OutputPlan =
  | { readonly kind: "streams"; readonly stdout: OutputPlace; readonly stderr: OutputPlace }
  /** Both streams are appended to a file that we make. */
  | { readonly kind: "log-file"; readonly path: string; readonly stderr: boolean }
  /** A program of the client's that reads both streams. */
  | { readonly kind: "logger"; readonly command: readonly string[]; readonly strictReady: boolean };

/**
 * Sorts the names a client gave: FIFO or file paths, `fifo://`, `file://`, `binary://` and `binary-v2://` URIs. The
 * scheme of stdout decides for both streams, as in the peer.
 *
 * @throws invalid-argument for another scheme; not-found when a path is not there.
 */
export async function planOutput(names: StdioNames): Promise<OutputPlan> {
  const match = /^([a-z][a-z0-9+.-]*):\/\//i.exec(names.stdout);
  const scheme = match?.[1]?.toLowerCase() ?? "";
  switch (scheme) {
    case "":
    case "fifo":
      return { kind: "streams", stdout: await place(names.stdout), stderr: await place(names.stderr) };
    case "file":
      return { kind: "log-file", path: parseUri(names.stdout).path, stderr: names.stderr !== "" };
    case "binary":
    case "binary-v2": {
      const { path, query } = parseUri(names.stdout);
      const command = [path];
      for (const [key, value] of query) command.push(key, ...(value === "" ? [] : [value]));
      return { kind: "logger", command, strictReady: scheme === "binary-v2" };
    }
    default:
      throw classified("unknown", `unknown STDIO scheme ${scheme}`);
  }
}

async function place(name: string): Promise<OutputPlace> {
  if (name === "") return { kind: "null" };
  const path = name.startsWith("fifo://") ? parseUri(name).path : name;
  const found = await stat(path).catch((error: unknown) => {
    throw classified("not-found", `containerd-shim: opening ${path} failed: no such file or directory`, {
      cause: error,
    });
  });
  return { kind: found.isFIFO() ? "fifo" : "file", path };
}

function parseUri(text: string): { readonly path: string; readonly query: Iterable<readonly [string, string]> } {
  try {
    const uri = new URL(text);
    return { path: decodeURIComponent(uri.pathname), query: uri.searchParams };
  } catch (error) {
    throw classified("invalid-argument", `unable to parse stdout uri: ${JSON.stringify(text)}`, { cause: error });
  }
}
