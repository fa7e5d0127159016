import { classified, isErrorClass, withContext } from "@stevedore/base";
import { connectUnix, Client as TtrpcClient } from "@stevedore/ttrpc";
import type { Sandbox } from "@stevedore/wire/gen/containerd/runtime/sandbox/v1/sandbox_pb";
import type { Task as TaskV2 } from "@stevedore/wire/gen/containerd/task/v2/shim_pb";
import type { StateResponse, Task as TaskV3 } from "@stevedore/wire/gen/containerd/task/v3/shim_pb";
import type { AdoptResponse } from "@stevedore/wire/gen/stevedore/shim/v1/adoption_pb";
import { type CallOptions, type Client, createClient, type Transport } from "@stevedore/wire/rpc/index";
import { ttrpcTransport } from "@stevedore/wire/ttrpc";
import { type BootstrapRecord, LEGACY_VERSION } from "./bundle.ts";

/** The task API of a shim, whichever version it speaks: their messages are the same. */
export type TaskClient = Client<typeof TaskV2> | Client<typeof TaskV3>;

/** The sandbox API of a shim. */
export type SandboxClient = Client<typeof Sandbox>;

/** One call of a shim. Its answer is one of two types that differ by name only. */
export type TaskCall<R extends Promise<unknown>> = (task: TaskClient, options: CallOptions) => R;

/** How many calls wait for one shim at a time, Wait apart; a shim that hangs must not pile up the daemon's memory. */
const MAX_CALLS = 256;

interface Made {
  readonly client: TtrpcClient;
  readonly transport: Transport;
  readonly task: TaskClient;
  readonly namespace: string;
  /** How many connections stand on it. */
  users: number;
}

/** A connection to a shim. */
export class ShimConnection {
  readonly record: BootstrapRecord;
  readonly task: TaskClient;
  readonly #made: Made;
  readonly #client: TtrpcClient;
  readonly #transport: Transport;
  readonly #namespace: string;
  readonly #given = Promise.withResolvers<void>();
  #isGiven = false;
  #sandbox: Promise<SandboxClient> | undefined;
  #calls = 0;

  private constructor(record: BootstrapRecord, made: Made) {
    this.record = record;
    this.#made = made;
    this.task = made.task;
    this.#client = made.client;
    this.#transport = made.transport;
    this.#namespace = made.namespace;
  }

  /** @throws unavailable when nobody listens there; not-implemented for a protocol other than ttrpc */
  static async open(record: BootstrapRecord, namespace: string, signal: AbortSignal): Promise<ShimConnection> {
    if (record.protocol.toLowerCase() !== "ttrpc") {
      throw classified("not-implemented", `unexpected protocol: ${JSON.stringify(record.protocol)}`);
    }
    const { address } = record;
    const path = address.startsWith("unix://") ? address.slice("unix://".length) : `@${address}`;
    let client: TtrpcClient;
    try {
      client = new TtrpcClient(await connectUnix(path, { signal }));
    } catch (error) {
      throw withContext("failed to create TTRPC connection", error);
    }
    const transport = ttrpcTransport(client);
    const task =
      record.version <= LEGACY_VERSION
        ? createClient((await import("@stevedore/wire/gen/containerd/task/v2/shim_pb")).Task, transport)
        : createClient((await import("@stevedore/wire/gen/containerd/task/v3/shim_pb")).Task, transport);
    return new ShimConnection(record, { client, transport, task, namespace, users: 1 });
  }

  /**
   * As {@link ShimConnection.open}, of a spare shim, which is told whose containers it will have.
   *
   * @throws failed-precondition when it is bound already.
   */
  static async bind(record: BootstrapRecord, namespace: string, signal: AbortSignal): Promise<ShimConnection> {
    const connection = await ShimConnection.open(record, namespace, signal);
    try {
      const { Spare } = await import("@stevedore/wire/gen/stevedore/shim/v1/spare_pb");
      await createClient(Spare, ttrpcTransport(connection.#client)).bind({ namespace }, { signal });
      return connection;
    } catch (error) {
      connection.close();
      throw error;
    }
  }

  /** Another one on the same socket, which ends when the last of them is closed. Calls count for each by itself. */
  share(): ShimConnection {
    this.#made.users++;
    return new ShimConnection(this.record, this.#made);
  }

  /** Settles when the connection has ended. */
  get closed(): Promise<void> {
    return Promise.race([this.#client.closed, this.#given.promise]);
  }

  get isClosed(): boolean {
    return this.#isGiven || this.#client.isClosed;
  }

  /**
   * One call, within the bulkhead.
   *
   * @throws resource-exhausted when too many calls wait for this shim already.
   */
  async call<R extends Promise<unknown>>(make: TaskCall<R>, options: CallOptions): Promise<Awaited<R>> {
    return this.#bounded(() => make(this.task, this.#withNamespace(options)));
  }

  /** As {@link ShimConnection.call}, of the sandbox API. @throws not-implemented when the shim has none */
  async callSandbox<T>(
    make: (sandbox: SandboxClient, options: CallOptions) => Promise<T>,
    options: CallOptions,
  ): Promise<T> {
    const sandbox = await this.#sandboxClient();
    return this.#bounded(() => make(sandbox, this.#withNamespace(options)));
  }

  /** A call of the sandbox API that may last as long as the sandbox does: outside the bulkhead. */
  async endlessSandbox<T>(
    make: (sandbox: SandboxClient, options: CallOptions) => Promise<T>,
    options: CallOptions,
  ): Promise<T> {
    return make(await this.#sandboxClient(), this.#withNamespace(options));
  }

  #sandboxClient(): Promise<SandboxClient> {
    this.#sandbox ??= import("@stevedore/wire/gen/containerd/runtime/sandbox/v1/sandbox_pb").then(
      ({ Sandbox: service }) => createClient(service, this.#transport),
    );
    return this.#sandbox;
  }

  async #bounded<R extends Promise<unknown>>(make: () => R): Promise<Awaited<R>> {
    if (this.#calls >= MAX_CALLS) {
      throw classified("resource-exhausted", `call shim at ${this.record.address}: ${MAX_CALLS} calls wait already`);
    }
    this.#calls++;
    try {
      return await make();
    } finally {
      this.#calls--;
    }
  }

  /** A call that may last as long as the process does: outside the bulkhead. */
  async endless<R extends Promise<unknown>>(make: TaskCall<R>, options: CallOptions): Promise<Awaited<R>> {
    const answer = await make(this.task, this.#withNamespace(options));
    return answer;
  }

  /** Has a shim of ours take over a container of one that died. */
  async adopt(request: { readonly id: string; readonly bundle: string }, options: CallOptions): Promise<AdoptResponse> {
    const { Adoption } = await import("@stevedore/wire/gen/stevedore/shim/v1/adoption_pb");
    const answer = await createClient(Adoption, ttrpcTransport(this.#client)).adopt(
      request,
      this.#withNamespace(options),
    );
    return answer;
  }

  /**
   * The states of all containers of a shim of ours by their ids, in one call within the bulkhead.
   *
   * @throws not-implemented by one of an earlier version
   */
  async states(options: CallOptions): Promise<ReadonlyMap<string, StateResponse>> {
    const { Overview } = await import("@stevedore/wire/gen/stevedore/shim/v1/overview_pb");
    const overview = createClient(Overview, this.#transport);
    const { states } = await this.#bounded(() => overview.states({}, this.#withNamespace(options)));
    return new Map(states.map((one) => [one.id, one]));
  }

  close(): void {
    if (this.#isGiven) return;
    this.#isGiven = true;
    this.#given.resolve();
    this.#made.users--;
    if (this.#made.users === 0) this.#client.close();
  }

  #withNamespace(options: CallOptions): CallOptions {
    return { ...options, metadata: { "containerd-namespace-ttrpc": this.#namespace } };
  }
}

/** Whether a call failed because the connection is gone. */
export function isConnectionGone(error: unknown, connection: ShimConnection): boolean {
  return connection.isClosed && isErrorClass(error, "unavailable");
}
