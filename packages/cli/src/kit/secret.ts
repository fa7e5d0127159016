import type { CommandIO } from "./command.ts";

const ENTER = new Set([0x0a, 0x0d]);
const INTERRUPT = 0x03;
const BACKSPACE = new Set([0x08, 0x7f]);

/**
 * Asks for a secret, without showing it where a terminal is asked; otherwise the first line of the input is it.
 *
 * @throws when the user interrupts, or the input ends before the line
 */
export async function readSecret(prompt: string, io: CommandIO): Promise<string> {
  const { stdin } = process;
  io.stderr.write(prompt);
  if (stdin.isTTY) stdin.setRawMode(true);
  const bytes: number[] = [];
  try {
    for await (const chunk of stdin) {
      for (const byte of Buffer.from(chunk)) {
        if (ENTER.has(byte)) return Buffer.from(bytes).toString("utf8");
        if (stdin.isTTY && byte === INTERRUPT) throw new Error("interrupted");
        if (stdin.isTTY && BACKSPACE.has(byte)) bytes.pop();
        else bytes.push(byte);
      }
    }
    throw new Error("no password was given");
  } finally {
    if (stdin.isTTY) stdin.setRawMode(false);
    io.stderr.write("\n");
  }
}
