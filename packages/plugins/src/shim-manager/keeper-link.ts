import { concatBytes, decodeText, encodeText, isErrorClass, type Logger, messageOf } from "@stevedore/base";
import { KeeperClient } from "@stevedore/keeper/client";
import { memoryFile, OwnedFd, openNull, pipe } from "@stevedore/os/fd";
import { readChunks } from "@stevedore/os/io";
import { sendSignal } from "@stevedore/os/process";
import { SIGKILL, SIGTERM } from "@stevedore/os/signals";
import { type RunOptions, type RunResult, runCommand, spawnChild } from "@stevedore/os/spawn";
import { untilAborted } from "./until-aborted.ts";

export interface KeeperSettings {
  /** What starts a keeper; its arguments follow. Undefined: no keeper. */
  readonly command: readonly string[] | undefined;
  /** Where it listens. */
  readonly socket: string;
  /** The daemon's address, which every process of ours carries in its arguments. */
  readonly grpcAddress: string;
  readonly env: Readonly<Record<string, string>>;
  readonly log: Logger;
  /** Told when another keeper is there, which is not above the shims that run. */
  readonly replaced?: () => void;
}

/** How long a keeper may take until it listens, milliseconds, and how often that is looked at. */
const START_MS = 5_000;
const START_POLL_MS = 2;

/** How often a keeper is looked for or started in a row, and the pause after the first failure. */
const ATTEMPTS = 8;
const ATTEMPT_PAUSE_MS = 20;

/** How long a keeper that said it ends may take. */
const END_MS = 2_000;

/** Pause before a keeper that cannot be started is tried again. */
const RETRY_MS = 5_000;

/** What a shim may print; the same as {@link runCommand} keeps by default. */
const MAX_OUTPUT_BYTES = 1 << 20;

/** After the child's end, how long a grandchild that kept the pipe may delay us. */
const OUTPUT_GRACE_MS = 500;

/** The daemon's side of its keeper: finds the one that is there, or starts one, and starts the next when it dies. */
export class KeeperLink {
  readonly #settings: KeeperSettings;
  #client: Promise<KeeperClient | undefined> | undefined;
  #failedAt = Number.NEGATIVE_INFINITY;
  #closed = false;

  constructor(settings: KeeperSettings) {
    this.#settings = settings;
  }

  /** The socket shims are told of; "" when there is no keeper. */
  get socket(): string {
    return this.#settings.command === undefined ? "" : this.#settings.socket;
  }

  /** The keeper; undefined when none can be had. Never rejects. */
  client(): Promise<KeeperClient | undefined> {
    if (this.#settings.command === undefined || this.#closed) return Promise.resolve(undefined);
    if (this.#client === undefined) {
      if (performance.now() - this.#failedAt < RETRY_MS) return Promise.resolve(undefined);
      this.#client = this.#open();
    }
    return this.#client;
  }

  /** As {@link runCommand}, with the keeper as the parent of what stays: it reaps what a shim leaves when it dies. */
  async run(argv: readonly string[], options: RunOptions): Promise<RunResult> {
    const client = await this.client();
    if (client === undefined) return runCommand(argv, options);
    try {
      return await runBy(client, argv, options);
    } catch (error) {
      // It died before it could say whether it has started anything: a shim that nobody finds ends by itself.
      if (!client.isClosed || !isErrorClass(error, "unavailable")) throw error;
      const next = await this.client();
      return next === undefined ? runCommand(argv, options) : runBy(next, argv, options);
    }
  }

  /** Forgets a container. */
  async drop(namespace: string, container: string): Promise<void> {
    const client = await this.#client;
    client?.drop({ namespace, container, exec: "" });
  }

  /** Leaves the keeper with what it holds; one that holds nothing has ended when this resolves. */
  async close(): Promise<void> {
    this.#closed = true;
    const client = await this.#client;
    if (client === undefined) return;
    try {
      const ends = await client.leave();
      if (ends) await untilAborted(client.closed, AbortSignal.timeout(END_MS)).catch(() => undefined);
    } catch {
      // It is gone already.
    }
    client.close();
  }

  async #open(): Promise<KeeperClient | undefined> {
    const { log, socket } = this.#settings;
    try {
      const { client, pid } = await this.#attended();
      log.debug("keeper", { pid, socket });
      void this.#follow(client);
      return client;
    } catch (error) {
      log.error("no keeper: containers of a shim that dies now cannot be taken over with their exit codes", {
        error: messageOf(error),
      });
      this.#client = undefined;
      this.#failedAt = performance.now();
      return undefined;
    }
  }

  async #follow(client: KeeperClient): Promise<void> {
    await client.closed;
    if (this.#closed) return;
    this.#client = undefined;
    this.#settings.log.warn("the keeper is gone, starting another one");
    // Shims deposit with it what they have.
    if ((await this.client()) !== undefined) this.#settings.replaced?.();
  }

  /** A keeper that answers. One that is dying still takes connections for a moment, and keeps the next from listening. */
  async #attended(): Promise<{ readonly client: KeeperClient; readonly pid: number }> {
    for (let attempt = 1; ; attempt++) {
      try {
        const client = await this.#connectOrStart();
        return { client, pid: await client.attend() };
      } catch (error) {
        if (attempt === ATTEMPTS || this.#closed) throw error;
        await Bun.sleep(attempt * ATTEMPT_PAUSE_MS);
      }
    }
  }

  async #connectOrStart(): Promise<KeeperClient> {
    const { socket, env, grpcAddress, command = [] } = this.#settings;
    try {
      return KeeperClient.connect(socket);
    } catch {
      // None is there.
    }
    const child = spawnChild([...command, "-address", grpcAddress, "-socket", socket], {
      env,
      newSession: true,
    });
    const end = performance.now() + START_MS;
    try {
      for (;;) {
        try {
          return KeeperClient.connect(socket);
        } catch (error) {
          if (performance.now() > end || child.status !== undefined) throw error;
        }
        await Bun.sleep(START_POLL_MS);
      }
    } finally {
      child.dispose();
    }
  }
}

/** Has the keeper run a program to its end. */
async function runBy(client: KeeperClient, argv: readonly string[], options: RunOptions): Promise<RunResult> {
  const { input, signal, maxOutputBytes = MAX_OUTPUT_BYTES } = options;
  signal?.throwIfAborted();
  const out = pipe();
  const err = pipe();
  using outRead = new OwnedFd(out.read);
  using errRead = new OwnedFd(err.read);
  using outWrite = new OwnedFd(out.write);
  using errWrite = new OwnedFd(err.write);
  const bytes = typeof input === "string" ? encodeText(input) : input;
  using stdin = new OwnedFd(bytes === undefined ? openNull() : memoryFile(bytes));
  const child = await client.spawn(
    { argv, env: options.env ?? {}, cwd: options.cwd ?? "/" },
    { stdin: stdin.fd, stdout: outWrite.fd, stderr: errWrite.fd },
  );
  outWrite.close();
  errWrite.close();
  const late = new AbortController();
  const outputs = Promise.all([
    collect(outRead.release(), maxOutputBytes, late.signal),
    collect(errRead.release(), maxOutputBytes, late.signal),
  ]);
  let timer: ReturnType<typeof setTimeout> | undefined;
  const onAbort = (): void => {
    sendSignal(child.pid, SIGTERM);
    timer = setTimeout(() => sendSignal(child.pid, SIGKILL), options.killGraceMs ?? 1_000);
  };
  signal?.addEventListener("abort", onAbort, { once: true });
  let status: { readonly code: number; readonly signal?: number } | undefined;
  try {
    status = await child.exited.catch(() => undefined);
  } finally {
    signal?.removeEventListener("abort", onAbort);
    clearTimeout(timer);
  }
  const grace = setTimeout(() => late.abort(), OUTPUT_GRACE_MS);
  const [stdout, stderr] = await outputs.finally(() => clearTimeout(grace));
  signal?.throwIfAborted();
  return {
    // A keeper that was killed meanwhile cannot tell: what the program printed does.
    ...(status ?? { code: stdout.byteLength > 0 ? 0 : 1 }),
    stdout,
    stderr,
    truncated: false,
    text: () => decodeText(stdout).trim() || decodeText(stderr).trim(),
  };
}

async function collect(fd: number, limit: number, late: AbortSignal): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let size = 0;
  try {
    for await (const chunk of readChunks(fd, { signal: late })) {
      if (size < limit) parts.push(chunk.slice(0, limit - size));
      size += chunk.byteLength;
    }
  } catch (error) {
    if (!late.aborted) throw error;
  }
  return concatBytes(parts);
}
