import { access, stat } from "node:fs/promises";
import { dirname, isAbsolute, join } from "node:path";
import { classified } from "@stevedore/base";
import { findExecutable } from "@stevedore/os/spawn";

export interface RuntimeSearch {
  /** Folders searched for shims, as $PATH. */
  readonly searchPath: string;
  /** The daemon's own program, beside which shims may be. */
  readonly self: string;
}

/**
 * The shim binary's name for a runtime's name: the last two words of `io.containerd.runc.v2` make
 * `containerd-shim-runc-v2`. "" when it has fewer than two.
 */
export function shimBinaryName(runtime: string): string {
  const words = runtime.split(".");
  const [name, version] = words.slice(-2);
  if (name === undefined || version === undefined || name === "" || version === "") return "";
  return `containerd-shim-${name}-${version}`;
}

/**
 * The program that serves a runtime: an absolute path as it is, else by name from the search path, else beside the
 * daemon.
 *
 * @throws unknown in the peer's words.
 */
export async function resolveRuntime(runtime: string, search: RuntimeSearch): Promise<string> {
  if (runtime === "") throw classified("unknown", "no runtime name");
  if (isAbsolute(runtime)) {
    await stat(runtime).catch((cause: unknown) => {
      throw classified("unknown", `invalid custom binary path: stat ${runtime}: no such file or directory`, { cause });
    });
    return runtime;
  }
  const name = runtime.includes("/") ? "" : shimBinaryName(runtime);
  if (name === "") {
    throw classified(
      "unknown",
      `invalid runtime name ${runtime}, correct runtime name should be either format like \`io.containerd.runc.v2\` or a full path to the binary`,
    );
  }
  try {
    return findExecutable(name, search.searchPath);
  } catch {
    const beside = join(dirname(search.self), name);
    await access(beside).catch((cause: unknown) => {
      throw classified(
        "unknown",
        `runtime ${JSON.stringify(runtime)} binary not installed ${JSON.stringify(name)}: file does not exist`,
        { cause },
      );
    });
    return beside;
  }
}
