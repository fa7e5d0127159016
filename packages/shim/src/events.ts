import { messageOf } from "@stevedore/base/errors";
import type { Logger } from "@stevedore/base/log";
import { nanosOf, nowMoment } from "@stevedore/base/moment";
import type { Client } from "@stevedore/ttrpc";
import type { MessageInitShape } from "@stevedore/wire/codec";
import type * as TaskEvents from "@stevedore/wire/gen/light/containerd/events/task_pb";

/** Topics of the events a shim sends, by message name; clients subscribe to them. */
const TOPICS = {
  TaskCreate: "/tasks/create",
  TaskStart: "/tasks/start",
  TaskExit: "/tasks/exit",
  TaskDelete: "/tasks/delete",
  TaskExecAdded: "/tasks/exec-added",
  TaskExecStarted: "/tasks/exec-started",
  TaskPaused: "/tasks/paused",
  TaskResumed: "/tasks/resumed",
  TaskCheckpointed: "/tasks/checkpointed",
  TaskOOM: "/tasks/oom",
} as const;

export type EventName = keyof typeof TOPICS;

export type EventFields<Name extends EventName> = MessageInitShape<(typeof TaskEvents)[`${Name}Schema`]>;

/** Events that wait for the daemon; beyond it the oldest are dropped. The peer's figure. */
const MAX_QUEUE = 2048;

/** Tries after the first before an event that the daemon refuses is given up, each a second later than the one before; the peer's figures. */
const MAX_RETRIES = 5;
const RETRY_MS = 1_000;

/** How long the daemon may take for one event; the peer's figure. */
const FORWARD_TIMEOUT_MS = 5_000;

interface QueuedEvent {
  readonly topic: string;
  readonly typeUrl: string;
  readonly value: Uint8Array;
  readonly at: Date;
  /** Called once the daemon has taken it. */
  readonly taken: (() => void) | undefined;
}

export interface PublisherOptions {
  readonly namespace: string;
  /** Path of the daemon's ttrpc socket; "" when the daemon told none. */
  readonly ttrpcAddress: string;
  /** Takes events by its command line when there is no ttrpc socket; "" for none. */
  readonly publishBinary: string;
  readonly grpcAddress: string;
  readonly env: Readonly<Record<string, string>>;
  readonly log: Logger;
  /** Instead of a second between tries: for tests. */
  readonly retryMs?: number;
}

/** Sends a shim's events to the daemon, one after another, in the order they happened. */
export class EventPublisher {
  readonly #options: PublisherOptions;
  readonly #queue: Promise<QueuedEvent>[] = [];
  #client: Client | undefined;
  /** Whether the last connection could be made: else there is no daemon now. */
  #isThere = true;
  #running: Promise<void> | undefined;
  #closing = false;
  #wake: () => void = () => undefined;

  constructor(options: PublisherOptions) {
    this.#options = options;
  }

  /**
   * Queues an event, stamped now. Never fails and never waits. `taken` is called once the daemon has it.
   *
   * @param at when it happened, if that was not now.
   */
  send<Name extends EventName>(name: Name, fields: EventFields<Name>, taken?: () => void, at?: Date): void {
    const { log } = this.#options;
    if (this.#queue.length >= MAX_QUEUE) {
      void this.#queue.shift();
      log.error("dropping the oldest event because the queue is full", { topic: TOPICS[name] });
    }
    this.#queue.push(encodeEvent(name, fields, { at: at ?? nowMoment(), taken }));
    this.#running ??= this.#drain().finally(() => {
      this.#running = undefined;
    });
  }

  /** Sends what is queued, for at most `milliseconds`, then closes the connection. */
  async close(milliseconds: number): Promise<void> {
    this.#closing = true;
    this.#wake();
    const { settledWithin } = await import("./process.ts");
    if (this.#running !== undefined) await settledWithin(this.#running, milliseconds);
    this.#client?.close();
  }

  async #drain(): Promise<void> {
    for (let next = this.#queue[0]; next !== undefined; next = this.#queue[0]) {
      const event = await next;
      await this.#deliver(event);
      if (this.#queue[0] === next) void this.#queue.shift();
    }
  }

  /** A daemon that is not there refuses nothing: events wait for the next one, however long that takes. */
  async #deliver(event: QueuedEvent): Promise<void> {
    const { log, retryMs = RETRY_MS } = this.#options;
    let isMissed = false;
    for (let retry = 0; ; ) {
      try {
        await this.#forward(event);
        event.taken?.();
        return;
      } catch (error) {
        if (this.#isThere || !isMissed) log.error("forward event", { topic: event.topic, error: messageOf(error) });
      }
      if (this.#closing) break;
      isMissed = !this.#isThere;
      if (this.#isThere) {
        if (retry === MAX_RETRIES) break;
        retry += 1;
      }
      await this.#pause(Math.max(1, retry) * retryMs);
    }
    log.error(`evicting ${event.topic} from queue because of retry count`);
  }

  /** Until the time is over, or the publisher is closed. No race with a promise that lives longer: each would leave something at it. */
  async #pause(milliseconds: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, milliseconds);
    this.#wake = () => {
      clearTimeout(timer);
      resolve();
    };
    await promise;
  }

  async #forward(event: QueuedEvent): Promise<void> {
    if (this.#options.ttrpcAddress === "") {
      await this.#publishByCommand(event);
      return;
    }
    // A connection may have died with the last daemon since the event before: one more try on a fresh one.
    const kept = this.#client !== undefined && !this.#client.isClosed;
    try {
      await this.#forwardOnce(event);
    } catch (error) {
      if (!kept || this.#client?.isClosed !== true) throw error;
      await this.#forwardOnce(event);
    }
  }

  async #forwardOnce(event: QueuedEvent): Promise<void> {
    const { namespace, ttrpcAddress } = this.#options;
    const { makeMessage, encodeMessage } = await import("@stevedore/wire/codec");
    const { ForwardRequestSchema } = await import(
      "@stevedore/wire/gen/light/containerd/services/events/ttrpc/v1/events_pb"
    );
    if (this.#client === undefined || this.#client.isClosed) {
      const { Client: TtrpcClient, connectUnix } = await import("@stevedore/ttrpc");
      this.#isThere = false;
      this.#client = new TtrpcClient(await connectUnix(ttrpcAddress));
      this.#isThere = true;
    }
    const request = makeMessage(ForwardRequestSchema, {
      envelope: {
        timestamp: { seconds: BigInt(Math.floor(event.at.getTime() / 1000)), nanos: nanosOf(event.at) },
        namespace,
        topic: event.topic,
        event: { typeUrl: event.typeUrl, value: event.value },
      },
    });
    await this.#client.call(
      "containerd.services.events.ttrpc.v1.Events",
      "Forward",
      encodeMessage(ForwardRequestSchema, request),
      { timeoutMs: FORWARD_TIMEOUT_MS, metadata: [["containerd-namespace-ttrpc", namespace]] },
    );
  }

  async #publishByCommand(event: QueuedEvent): Promise<void> {
    const { publishBinary, grpcAddress, namespace, env } = this.#options;
    if (publishBinary === "") return;
    const [{ makeMessage, encodeMessage }, { AnySchema }, { runCommand }] = await Promise.all([
      import("@stevedore/wire/codec"),
      import("@stevedore/wire/light/wkt"),
      import("@stevedore/os/spawn"),
    ]);
    const { typeUrl, value } = event;
    const ran = await runCommand(
      [publishBinary, "--address", grpcAddress, "publish", "--topic", event.topic, "--namespace", namespace],
      {
        env,
        input: encodeMessage(AnySchema, makeMessage(AnySchema, { typeUrl, value })),
        signal: AbortSignal.timeout(FORWARD_TIMEOUT_MS),
      },
    );
    if (ran.code !== 0) throw new Error(`${publishBinary} publish: exit status ${ran.code}: ${ran.text()}`);
  }
}

async function encodeEvent<Name extends EventName>(
  name: Name,
  fields: EventFields<Name>,
  more: Pick<QueuedEvent, "at" | "taken">,
): Promise<QueuedEvent> {
  const [{ makeMessage, encodeMessage }, schemas] = await Promise.all([
    import("@stevedore/wire/codec"),
    import("@stevedore/wire/gen/light/containerd/events/task_pb"),
  ]);
  const schema = schemas[`${name}Schema`];
  const value = encodeMessage(schema, makeMessage(schema, fields));
  return { topic: TOPICS[name], typeUrl: schema.typeName, value, ...more };
}
