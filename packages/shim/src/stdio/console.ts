import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { duplicate, type OwnedFd } from "@stevedore/os/fd";
import { openFifoReaderNow, openFifoWriter } from "@stevedore/os/fifo";
import { FdWriter, readChunks } from "@stevedore/os/io";
import { ConsoleSocket, setWindowSize } from "@stevedore/os/pty";
import { AppendFile } from "./append-file.ts";
import { Logger } from "./logger.ts";
import { planOutput, type StdioNames } from "./target.ts";

export interface ConsoleOptions {
  readonly names: StdioNames;
  readonly id: string;
  readonly namespace: string;
  readonly env: Readonly<Record<string, string>>;
}

/** How long the runtime may take to send the terminal after it ended well; the peer's figure. */
const CONSOLE_TIMEOUT_MS = 30_000;

/** Runs `use` with a console socket in a private folder, removed afterwards. */
export async function withConsoleSocket<T>(
  env: Readonly<Record<string, string>>,
  use: (socket: ConsoleSocket) => Promise<T>,
): Promise<T> {
  const base = env["XDG_RUNTIME_DIR"];
  const folder = await mkdtemp(join(base === undefined || base === "" ? "/tmp" : base, "pty"));
  try {
    using socket = new ConsoleSocket(join(folder, "pty.sock"));
    return await use(socket);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/**
 * The terminal of a process: the master end, copied to and from what the client named. The end of the client's input
 * hangs the terminal up, as in the peer.
 */
export class ProcessConsole {
  readonly #master: OwnedFd;
  readonly #abort = new AbortController();
  readonly #toTerminal: FdWriter;
  readonly #held: { close(): void }[] = [];
  #stdinWriter: { close(): void } | undefined;
  #logger: Logger | undefined;
  #output: Promise<void> = Promise.resolve();
  #closed: Promise<void> | undefined;

  private constructor(master: OwnedFd) {
    this.#master = master;
    this.#toTerminal = new FdWriter(duplicate(master.fd));
  }

  /** Takes the terminal the runtime sends and starts copying. */
  static async receive(socket: ConsoleSocket, options: ConsoleOptions): Promise<ProcessConsole> {
    const master = await socket.receive(AbortSignal.timeout(CONSOLE_TIMEOUT_MS));
    const console = new ProcessConsole(master);
    try {
      await console.#connect(options);
      return console;
    } catch (error) {
      await console.close();
      throw error;
    }
  }

  /** Settles when all output has been copied; never rejects. */
  get drained(): Promise<void> {
    return this.#output;
  }

  /** @throws invalid-argument when the terminal is gone */
  resize(width: number, height: number): void {
    if (this.#master.fd >= 0) setWindowSize(this.#master.fd, { columns: width, rows: height });
  }

  closeStdin(): void {
    this.#stdinWriter?.close();
    this.#stdinWriter = undefined;
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#hangUp();
    await this.#output;
    for (const held of this.#held.splice(0)) held.close();
    this.closeStdin();
    await this.#logger?.close();
  }

  #hangUp(): void {
    this.#abort.abort();
    this.#toTerminal.close();
    if (this.#master.fd >= 0) this.#master.close();
  }

  async #connect(options: ConsoleOptions): Promise<void> {
    const { names } = options;
    const write = await this.#openOutput(options);
    this.#output = this.#copyOutput(duplicate(this.#master.fd), write);
    if (names.stdin === "") return;
    const reader = openFifoReaderNow(names.stdin);
    this.#held.push(reader);
    const writer = await openFifoWriter(names.stdin);
    this.#stdinWriter = writer;
    this.#held.push(writer);
    void this.#copyInput(reader.release());
  }

  async #openOutput(options: ConsoleOptions): Promise<(bytes: Uint8Array) => Promise<void>> {
    const { signal } = this.#abort;
    const plan = await planOutput({ ...options.names, stderr: "" });
    switch (plan.kind) {
      case "logger": {
        const logger = await Logger.start({ ...options, ...plan });
        this.#logger = logger;
        logger.stderr.close();
        const writer = new FdWriter(logger.stdout.release());
        this.#held.push(writer);
        return (bytes) => writer.write(bytes, signal);
      }
      case "log-file":
        return this.#appendTo(plan.path);
      case "streams":
        if (plan.stdout.kind === "null") return () => Promise.resolve();
        if (plan.stdout.kind === "file") return this.#appendTo(plan.stdout.path);
        {
          const writer = await openFifoWriter(plan.stdout.path, { keepReader: true, signal });
          this.#held.push(writer);
          return (bytes) => writer.write(bytes, signal);
        }
    }
  }

  async #appendTo(path: string): Promise<(bytes: Uint8Array) => Promise<void>> {
    const file = await AppendFile.open(path);
    this.#held.push(file);
    return (bytes) => file.write(bytes);
  }

  async #copyOutput(from: number, write: (bytes: Uint8Array) => Promise<void>): Promise<void> {
    try {
      for await (const chunk of readChunks(from, { signal: this.#abort.signal })) await write(chunk);
    } catch {
      // The client's end is gone, or the terminal was hung up: nobody is left to tell.
    }
    // The client sees the end now, not when the process is deleted.
    for (const held of this.#held.splice(0)) held.close();
  }

  async #copyInput(from: number): Promise<void> {
    const { signal } = this.#abort;
    try {
      for await (const chunk of readChunks(from, { signal })) await this.#toTerminal.write(chunk, signal);
    } catch {
      return; // hung up already
    }
    this.#hangUp();
  }
}
