import { basename } from "node:path";
import { encodeText } from "@stevedore/base/bytes";
import { classified, messageOf } from "@stevedore/base/errors";
import { SHARED_VARIABLE } from "./environment.ts";
import { parseFlags, type ShimFlags, usage } from "./flags.ts";

/** What the program that contains the shim tells it of itself. */
export interface ShimProgram {
  /** The command that runs a shim. Default: this process's own program and script. */
  readonly self?: readonly string[];
  readonly version?: string;
  readonly revision?: string;
}

const NAME = "containerd-shim-runc-v2";

/**
 * The whole of `containerd-shim-runc-v2`: start, delete, -info, -v, or the serving process. Nothing but the answer goes
 * to stdout, and nothing but the error to stderr.
 *
 * @param argv the arguments after the program's name.
 * @returns the exit code; the caller ends the process with it.
 */
export async function runShim(
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
  program: ShimProgram = {},
): Promise<number> {
  let flags: ShimFlags;
  try {
    flags = parseFlags(argv);
  } catch (error) {
    await write(2, `${messageOf(error)}\n${usage(NAME)}`);
    return 2;
  }
  try {
    return await act(flags, env, program);
  } catch (error) {
    if (flags.action === "serve") {
      const { tellReady } = await import("./serve.ts");
      tellReady(messageOf(error));
    }
    await write(2, `io.containerd.runc.v2: ${messageOf(error)}`);
    return 1;
  }
}

async function act(
  flags: ShimFlags,
  env: Readonly<Record<string, string | undefined>>,
  program: ShimProgram,
): Promise<number> {
  const { version = "unknown", revision = "" } = program;
  switch (flags.action) {
    case "help":
      await write(2, usage(NAME));
      return 0;
    case "version":
      await write(1, `${NAME}:\n  Version:  ${version}\n  Revision: ${revision}\n  Go version: \n\n`);
      return 0;
    case "info": {
      const [{ runtimeInfo }, { readStdin }] = await Promise.all([import("./info.ts"), import("./start.ts")]);
      await write(1, await runtimeInfo({ stdin: await readStdin(), env, version, revision }));
      return 0;
    }
    case "start": {
      if (!isSpare(flags, env)) requireNamespace(flags);
      const { readStdin, start } = await import("./start.ts");
      const self = program.self ?? ownCommand();
      const stdin = await readStdin();
      await write(1, await start({ flags, env, self, stdin, bundle: process.cwd() }));
      return 0;
    }
    case "delete": {
      requireNamespace(flags);
      const { cleanUp } = await import("./delete.ts");
      await write(1, await cleanUp(flags, env));
      return 0;
    }
    case "serve": {
      const { serve } = await import("./serve.ts");
      if (isSpare(flags, env)) return serve({ ...flags, bundle: "" }, env);
      requireNamespace(flags);
      return serve({ ...flags, bundle: flags.bundle === "" ? process.cwd() : flags.bundle }, env);
    }
  }
}

/** A shared shim without a namespace is one that its daemon keeps for the next containers. */
function isSpare({ namespace }: ShimFlags, env: Readonly<Record<string, string | undefined>>): boolean {
  return namespace === "" && (env[SHARED_VARIABLE] ?? "") !== "";
}

function requireNamespace({ namespace }: ShimFlags): void {
  if (namespace === "") throw classified("invalid-argument", "shim namespace cannot be empty");
}

/** How this very program was started: the runtime with our script, or a compiled binary, which needs the name. */
function ownCommand(): string[] {
  const script = process.argv[1] ?? "";
  if (basename(process.execPath).startsWith("bun")) return [process.execPath, script];
  return [process.execPath, NAME];
}

/** Writes all of it, blocking: Bun's streams would cost milliseconds in a program that writes once. */
async function write(descriptor: 1 | 2, data: string | Uint8Array): Promise<void> {
  const { writeAll } = await import("@stevedore/os/fd");
  writeAll(descriptor, typeof data === "string" ? encodeText(data) : data);
}
