/** Talks to a shim past the daemon, for people who look into one. */
import { classified, isErrorClass } from "@stevedore/base";
import type { AnyValue, TaskIO } from "@stevedore/core";
import type { StateResponse } from "@stevedore/wire/gen/light/containerd/task/v3/shim_pb";
import { type CallOptions, createClient, type Transport } from "@stevedore/wire/rpc/index";
import { dialTtrpc } from "@stevedore/wire/ttrpc-dial";
import { type ShimName, shimSockets } from "./shim-sockets.ts";

/** Versions of the task API that shims speak; their messages are the same. */
export type TaskApiVersion = 2 | 3;

/** A process to be added to a container by its shim. */
export interface ShimExec {
  readonly id: string;
  readonly execId: string;
  readonly io: TaskIO;
  readonly spec: AnyValue;
}

/** What a shim says of a process; `status` is containerd's number for it. */
export type ShimProcessState = Omit<StateResponse, "$typeName" | "$unknown">;

/** One call. Its answer is one of two types that differ by name only. */
type TaskCall<R extends Promise<unknown>> = (task: TaskClient, options: CallOptions) => R;
type TaskClient = Awaited<ReturnType<typeof taskClient>>;

async function taskClient(transport: Transport, version: TaskApiVersion) {
  return version === 2
    ? createClient((await import("@stevedore/wire/gen/light/containerd/task/v2/shim_pb")).Task, transport)
    : createClient((await import("@stevedore/wire/gen/light/containerd/task/v3/shim_pb")).Task, transport);
}

/**
 * A connection to one shim. Without a version a call is made in version 3 and, at a shim that does not know it, again in 2.
 * Dispose it to close the connection; the shim goes on.
 */
export class ShimClient implements AsyncDisposable {
  readonly #transport: Transport;
  readonly #options: CallOptions;

  private constructor(transport: Transport, options: CallOptions) {
    this.#transport = transport;
    this.#options = options;
  }

  /** @throws unavailable when none of the shim's sockets answers; invalid-argument when the name names none. */
  static async connect(name: ShimName, signal: AbortSignal): Promise<ShimClient> {
    if (name.id === "" && name.address === "") {
      throw classified("invalid-argument", "shim ID (--id) or address (--shim-address) must be specified");
    }
    const sockets = shimSockets(name);
    for (const socket of sockets) {
      try {
        const transport = await dialTtrpc(socket, signal);
        return new ShimClient(transport, { signal, metadata: { "containerd-namespace-ttrpc": name.namespace } });
      } catch (error) {
        if (!isErrorClass(error, "unavailable")) throw error;
      }
    }
    throw classified("unavailable", `fail to connect to container shim with sockets: [${sockets.join(" ")}]`);
  }

  async state(id: string, version?: TaskApiVersion): Promise<ShimProcessState> {
    const state = await this.#call((task, options) => task.state({ id }, options), version);
    return state;
  }

  /** @returns the pid of the process. `execId` "" is the container's own process. */
  async start(id: string, execId: string): Promise<number> {
    const { pid } = await this.#call((task, options) => task.start({ id, execId }, options));
    return pid;
  }

  /** @returns the exit status. */
  async delete(id: string): Promise<number> {
    const { exitStatus } = await this.#call((task, options) => task.delete({ id }, options));
    return exitStatus;
  }

  async exec({ id, execId, io, spec }: ShimExec): Promise<void> {
    const { stdin, stdout, stderr, terminal } = io;
    await this.#call((task, options) => task.exec({ id, execId, stdin, stdout, stderr, terminal, spec }, options));
  }

  async closeStdin(id: string, execId: string): Promise<void> {
    await this.#call((task, options) => task.closeIO({ id, execId, stdin: true }, options));
  }

  async resize(id: string, execId: string, size: { readonly width: number; readonly height: number }): Promise<void> {
    await this.#call((task, options) => task.resizePty({ id, execId, ...size }, options));
  }

  /** Ends the shim if it has no containers; with some it stays. */
  async shutdown(version?: TaskApiVersion): Promise<void> {
    try {
      await this.#call((task, options) => task.shutdown({}, options), version);
    } catch (error) {
      // A shim that is quick is gone before its answer is.
      if (!isErrorClass(error, "unavailable")) throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#transport.close();
  }

  async #call<R extends Promise<unknown>>(call: TaskCall<R>, version?: TaskApiVersion): Promise<Awaited<R>> {
    try {
      const answer = await call(await taskClient(this.#transport, version ?? 3), this.#options);
      return answer;
    } catch (error) {
      if (version !== undefined || !isErrorClass(error, "not-implemented")) throw error;
    }
    // Nothing was done: the shim has no such service.
    const answer = await call(await taskClient(this.#transport, 2), this.#options);
    return answer;
  }
}
