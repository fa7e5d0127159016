import type { Logger } from "@stevedore/base";
import { messageOf } from "@stevedore/base";
import type { BootstrapRecord } from "./bundle.ts";
import { ShimConnection } from "./shim-client.ts";
import { removeSocketLeft } from "./shim-socket.ts";
import type { SpareShim } from "./spare-shim.ts";
import { untilAborted } from "./until-aborted.ts";

/** A shim of ours that takes any number of containers of one namespace. */
export interface SharedShim {
  readonly record: BootstrapRecord;
  readonly key: string;
  /** Tells when it is gone, and keeps it from ending while it is idle. */
  readonly connection: ShimConnection;
}

/** What containers of one shim must have in common. */
export interface SharedKind {
  /** The shim binary, and which file it is now. */
  readonly path: string;
  readonly fileKey: string;
  readonly namespace: string;
}

interface Slot extends SharedShim {
  users: number;
  retired: boolean;
  /** Questions that it has not answered in time, and still does not. */
  unanswered: number;
  idle: ReturnType<typeof setTimeout> | undefined;
}

/**
 * Containers per shim: an empty shim costs some 9 MB of private memory and each container 0.1 MB, so that 64 bring it to a
 * quarter of a megabyte each. A crash of one loses none of them (0111); what is bounded is how many wait for a new shim then.
 */
const MAX_CONTAINERS = 64;

/** How long a shim without containers is kept for the next one, milliseconds. */
const IDLE_MS = 60_000;

/** How long a shim that has just told its address may take to be connected to, milliseconds. */
const CONNECT_MS = 10_000;

/** How long an idle shim may take to end. */
const SHUTDOWN_MS = 3_000;

/** The shims that are shared, by what they must have in common. */
export class SharedShims {
  readonly #slots = new Map<string, Slot[]>();
  readonly #starting = new Map<string, Promise<unknown>>();
  readonly #log: Logger;
  readonly #spare: SpareShim | undefined;

  /** @param spare where a started shim may be had; absent: each is started when it is needed. */
  constructor(log: Logger, spare?: SpareShim) {
    this.#log = log;
    this.#spare = spare;
  }

  /**
   * A shim with room, started by `start` when there is none. Of several that ask while one starts, all wait for that one.
   * A start is not ended by the signal: who gives up waits for it. Release the shim when the container has gone.
   *
   */
  async acquire(kind: SharedKind, start: () => Promise<BootstrapRecord>, signal: AbortSignal): Promise<SharedShim> {
    const key = sharedKey(kind);
    this.#spare?.soon();
    for (;;) {
      const found = this.#slots
        .get(key)
        ?.find(
          ({ users, retired, unanswered, connection }) =>
            users < MAX_CONTAINERS && !retired && unanswered === 0 && !connection.isClosed,
        );
      if (found !== undefined) {
        found.users++;
        clearTimeout(found.idle);
        return found;
      }
      const other = this.#starting.get(key);
      if (other === undefined) break;
      await untilAborted(other, signal); // itself never rejects; look again
    }
    const started = this.#start(key, kind, start);
    const settled = started.catch(() => undefined);
    this.#starting.set(key, settled);
    let slot: Slot;
    try {
      slot = await started;
    } finally {
      if (this.#starting.get(key) === settled) this.#starting.delete(key);
    }
    if (!signal.aborted) return slot;
    this.release(slot);
    throw signal.reason;
  }

  /** Gives a shim back. Without containers it is kept a while for the next one. */
  release(shim: SharedShim): void {
    const slot = this.#slots.get(shim.key)?.find((one) => one === shim);
    if (slot === undefined) return;
    slot.users--;
    if (slot.users > 0) return;
    if (slot.retired) {
      void this.#end(slot);
      return;
    }
    slot.idle = setTimeout(() => void this.#end(slot), IDLE_MS);
    slot.idle.unref();
  }

  /** A shim that is known to have died gets no more containers, though its connection may not have ended here yet. */
  forget(address: string): void {
    for (const slots of this.#slots.values()) {
      for (const { record, connection } of slots) if (record.address === address) connection.close();
    }
  }

  /** A shim that has not answered in time gets no more containers until `answered` settles, which does not reject. */
  avoid(address: string, answered: Promise<void>): void {
    for (const slot of [...this.#slots.values()].flat()) {
      if (slot.record.address !== address) continue;
      slot.unanswered++;
      void answered.then(() => slot.unanswered--);
    }
  }

  /**
   * The shims there are get no more containers and end with their last one. What they would leave, were they to die, goes past the
   * keeper that has taken the place of theirs.
   */
  retire(): void {
    void this.#spare?.replace();
    for (const slot of [...this.#slots.values()].flat()) {
      slot.retired = true;
      if (slot.users > 0) continue;
      clearTimeout(slot.idle);
      void this.#end(slot);
    }
  }

  /** Whether a shim is one of ours, so that nobody else may end it. */
  has(address: string): boolean {
    return [...this.#slots.values()].some((slots) => slots.some((slot) => slot.record.address === address));
  }

  /** Ends the idle ones; those with containers go on without us. */
  async close(): Promise<void> {
    const slots = [...this.#slots.values()].flat();
    await Promise.all([
      this.#spare?.close(),
      ...slots.map(async (slot) => {
        clearTimeout(slot.idle);
        if (slot.users === 0) await this.#end(slot);
        else slot.connection.close();
      }),
    ]);
  }

  async #start(key: string, kind: SharedKind, start: () => Promise<BootstrapRecord>): Promise<Slot> {
    const { record, connection } = (await this.#spare?.take(kind)) ?? (await startOne(kind.namespace, start));
    this.#spare?.soon();
    const slot: Slot = { record, key, connection, users: 1, retired: false, unanswered: 0, idle: undefined };
    this.#slots.set(key, [...(this.#slots.get(key) ?? []), slot]);
    void this.#forgetWhenGone(slot);
    return slot;
  }

  async #forgetWhenGone(slot: Slot): Promise<void> {
    await slot.connection.closed;
    clearTimeout(slot.idle);
    const left = (this.#slots.get(slot.key) ?? []).filter((one) => one !== slot);
    if (left.length > 0) this.#slots.set(slot.key, left);
    else this.#slots.delete(slot.key);
    removeSocketLeft(slot.record.address, this.#log);
  }

  async #end(slot: Slot): Promise<void> {
    const left = (this.#slots.get(slot.key) ?? []).filter((one) => one !== slot);
    this.#slots.set(slot.key, left); // from here on nobody gets it any more
    try {
      await slot.connection.call((task, options) => task.shutdown({ id: "" }, options), { timeoutMs: SHUTDOWN_MS });
    } catch (error) {
      this.#log.debug("ending an idle shim", { address: slot.record.address, error: messageOf(error) });
    }
    slot.connection.close();
  }
}

/** What tells kinds of shared shims apart. */
function sharedKey({ path, fileKey, namespace }: SharedKind): string {
  return `${path}\n${fileKey}\n${namespace}`;
}

async function startOne(
  namespace: string,
  start: () => Promise<BootstrapRecord>,
): Promise<{ readonly record: BootstrapRecord; readonly connection: ShimConnection }> {
  const record = await start();
  return { record, connection: await ShimConnection.open(record, namespace, AbortSignal.timeout(CONNECT_MS)) };
}
