import { spawn } from "node:child_process";
import { classified } from "@stevedore/base";
import { type HelperOutcome, type HelperRunner, MAX_HELPER_OUTPUT } from "./helper.ts";

/** How helpers are started. */
export interface ProcessHelperOptions {
  /** The whole environment of the helper: at least PATH, and HOME for most. */
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** Milliseconds a helper may take; some ask a keyring or a cloud. */
  readonly timeoutMs?: number;
}

const DEFAULT_TIMEOUT_MS = 60_000;

/** Starts helpers as child processes. The daemon uses its own spawn instead. */
export function processHelpers(options: ProcessHelperOptions): HelperRunner {
  const timeout = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
  return async (program, args, { stdin, signal }): Promise<HelperOutcome> => {
    const child = spawn(program, [...args], {
      env: { ...options.environment },
      stdio: ["pipe", "pipe", "pipe"],
      signal: AbortSignal.any([signal, AbortSignal.timeout(timeout)]),
      killSignal: "SIGKILL",
    });
    const { promise, resolve, reject } = Promise.withResolvers<HelperOutcome>();
    const gather = (stream: NodeJS.ReadableStream): Uint8Array[] => {
      const parts: Uint8Array[] = [];
      let size = 0;
      stream.on("data", (bytes: Buffer) => {
        size += bytes.byteLength;
        if (size <= MAX_HELPER_OUTPUT) parts.push(bytes);
        else {
          child.kill("SIGKILL");
          reject(classified("resource-exhausted", `it printed more than ${MAX_HELPER_OUTPUT} bytes`));
        }
      });
      return parts;
    };
    const stdout = gather(child.stdout);
    const stderr = gather(child.stderr);
    child.on("error", reject);
    child.on("close", (code) => {
      resolve({ code: code ?? 255, stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr) });
    });
    // A helper that ends without reading its input is no failure by itself.
    child.stdin.on("error", () => undefined);
    child.stdin.end(stdin);
    return promise;
  };
}
