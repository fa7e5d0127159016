/** Joins this program's streams to a process that a shim was asked for directly. */
import type { TaskIO } from "@stevedore/core";
import { getWindowSize, makeRaw } from "@stevedore/os/pty";
import type { ShimClient } from "./shim-client.ts";
import { requireTerminal } from "./task-run.ts";
import { joinTaskStreams } from "./task-streams.ts";

export interface OwnStreamOptions {
  readonly id: string;
  readonly execId: string;
  readonly io: TaskIO;
  readonly stdout: (bytes: Uint8Array) => void;
  readonly stderr: (bytes: Uint8Array) => void;
}

/** Streams of a process, copied while this is not disposed. */
export interface OwnStreams extends AsyncDisposable {
  /** Waits until the process and all that hold its streams have closed them. Call it after the start. */
  attach(): Promise<void>;
}

/** Opens the FIFOs of `io`, making those that are missing; they stay when this is disposed. */
export function joinOwnStreams(shim: ShimClient, options: OwnStreamOptions): OwnStreams {
  const { id, execId, io, stdout, stderr } = options;
  const started = Promise.withResolvers<void>();
  const streams = joinTaskStreams(io, {
    ...(io.stdin === "" ? {} : { stdin: Bun.stdin.stream() }),
    stdout,
    stderr,
    stdinEnded: async () => {
      await started.promise;
      await shim.closeStdin(id, execId);
    },
  });
  return {
    attach: async () => {
      started.resolve();
      using stack = new DisposableStack();
      if (io.terminal) {
        requireTerminal();
        stack.defer(makeRaw(0));
        const { columns, rows } = getWindowSize(0);
        await shim.resize(id, execId, { width: columns, height: rows });
      }
      await streams.drained;
    },
    [Symbol.asyncDispose]: async () => streams[Symbol.asyncDispose](),
  };
}
