import { runShim as run, type ShimProgram } from "./run.ts";

/** Put in by the build; a run from source has the fall-backs. */
declare const STEVEDORE_VERSION: string | undefined;
declare const STEVEDORE_REVISION: string | undefined;

/** containerd's version that this shim answers for. */
const COMPATIBLE_WITH = "2.3.4";

const PROGRAM: ShimProgram = {
  version: `${COMPATIBLE_WITH}+stevedore.${typeof STEVEDORE_VERSION === "string" ? STEVEDORE_VERSION : "0.0.0"}`,
  revision: typeof STEVEDORE_REVISION === "string" ? STEVEDORE_REVISION : "unknown",
};

/**
 * The whole of `containerd-shim-runc-v2`.
 *
 * @param argv the arguments after the program's name.
 * @returns the exit code; the caller ends the process with it.
 */
export function runShim(
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>> = process.env,
): Promise<number> {
  return run(argv, env, PROGRAM);
}
