import { randomUUID } from "node:crypto";
import type { Logger } from "@stevedore/base";
import { messageOf } from "@stevedore/base";
import { getOomScoreAdj } from "@stevedore/os/process";
import type { BootstrapRecord, Bundle } from "./bundle.ts";
import type { SharedKind } from "./shared-shims.ts";
import { ShimBinary, type ShimCallSettings } from "./shim-binary.ts";
import { ShimConnection } from "./shim-client.ts";

/**
 * How long nothing may have been asked for before a spare is started, milliseconds: a start takes two starts of the program, and
 * must not be felt by who works with containers now.
 */
const PAUSE_MS = 1_000;

const LIMIT_MS = 10_000;

/** How long a spare may take to say that it is bound, milliseconds: it has nothing else to do, and a container waits. */
const BIND_MS = 2_000;

/** A started shim without a namespace. */
interface Spare {
  readonly record: BootstrapRecord;
  /** Keeps it from ending, and tells when it has. */
  readonly connection: ShimConnection;
  /** What it was started as: what a new one would get now must be the same. */
  readonly likeness: string;
}

export interface SpareOptions {
  /** The shim binary that containers get. Undefined while it is not known, or is none of ours. */
  readonly path: () => Promise<string | undefined>;
  /** Where it is started: a folder that stays. */
  readonly folder: string;
  readonly settings: () => ShimCallSettings;
  readonly log: Logger;
}

/**
 * One shared shim that is started ahead and belongs to no namespace: the first container of a namespace gets it, and the next one
 * is started when there is nothing else to do. It has the daemon's addresses, log level and environment, which are the same for
 * all shims of a daemon; a binary that was replaced meanwhile or a changed OOM score of the daemon's make it useless.
 */
export class SpareShim {
  readonly #options: SpareOptions;
  #spare: Spare | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #starting: Promise<void> | undefined;
  #closed = false;

  constructor(options: SpareOptions) {
    this.#options = options;
  }

  /** Has a spare started after a pause; asked for again, the pause begins anew. */
  soon(): void {
    if (this.#closed || this.#spare !== undefined || this.#starting !== undefined) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#starting = this.#start().finally(() => {
        this.#starting = undefined;
      });
    }, PAUSE_MS);
    this.#timer.unref();
  }

  /** The spare, bound to the namespace; undefined when there is none that will do. The caller's from here on. */
  async take({
    path,
    fileKey,
    namespace,
  }: SharedKind): Promise<{ readonly record: BootstrapRecord; readonly connection: ShimConnection } | undefined> {
    const spare = this.#spare;
    if (spare === undefined) return undefined;
    this.#spare = undefined;
    try {
      if (spare.connection.isClosed) return undefined;
      if (spare.likeness !== likenessOf(path, fileKey)) {
        void end(spare.connection);
        return undefined;
      }
      const connection = await ShimConnection.bind(spare.record, namespace, AbortSignal.timeout(BIND_MS));
      spare.connection.close();
      return { record: spare.record, connection };
    } catch (error) {
      this.#options.log.warn("failed to use the spare shim", { error: messageOf(error) });
      void end(spare.connection); // it may be stopped
      return undefined;
    }
  }

  /** Ends the spare there is, and has another one started: it is not below the keeper that is there now. */
  async replace(): Promise<void> {
    const spare = this.#spare;
    this.#spare = undefined;
    if (spare !== undefined) await end(spare.connection);
    this.soon();
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#starting;
    const spare = this.#spare;
    this.#spare = undefined;
    if (spare !== undefined) await end(spare.connection);
  }

  async #start(): Promise<void> {
    const { log } = this.#options;
    try {
      const path = await this.#options.path();
      if (path === undefined || this.#closed) return;
      const binary = this.#binary(path);
      const likeness = likenessOf(path, await binary.fileKey());
      const record = await binary.startShared(undefined, AbortSignal.timeout(LIMIT_MS));
      const connection = await ShimConnection.open(record, "", AbortSignal.timeout(LIMIT_MS));
      this.#spare = { record, connection, likeness };
      void this.#forgetWhenGone(this.#spare);
    } catch (error) {
      // Nobody waits for it: containers start their shims themselves.
      log.warn("failed to start a spare shim", { error: messageOf(error) });
    }
  }

  async #forgetWhenGone(spare: Spare): Promise<void> {
    await spare.connection.closed;
    if (this.#spare === spare) this.#spare = undefined;
  }

  #binary(path: string): ShimBinary {
    const bundle: Bundle = { namespace: "", id: `spare-${randomUUID()}`, path: this.#options.folder };
    return new ShimBinary(path, bundle, this.#options.settings());
  }
}

function likenessOf(path: string, fileKey: string): string {
  return `${path}\n${fileKey}\n${getOomScoreAdj()}`;
}

async function end(connection: ShimConnection): Promise<void> {
  await connection
    .call((task, options) => task.shutdown({ id: "" }, options), { timeoutMs: LIMIT_MS })
    .catch(() => undefined); // it ends by itself when nobody is connected
  connection.close();
}
