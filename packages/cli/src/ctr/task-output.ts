import type { CommandIO } from "../kit/command.ts";

/** Where a process's streams go: this command's own. */
export function taskOutputs(io: CommandIO): {
  readonly stdout: (bytes: Uint8Array) => void;
  readonly stderr: (bytes: Uint8Array) => void;
} {
  return { stdout: (bytes) => io.stdout.write(bytes), stderr: (bytes) => io.stderr.write(bytes) };
}
