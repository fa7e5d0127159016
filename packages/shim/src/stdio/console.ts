import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { messageOf } from "@stevedore/base/errors";
import { duplicate, OwnedFd } from "@stevedore/os/fd";
import { openFifoBoth, openFifoReaderNow, openFifoWriter } from "@stevedore/os/fifo";
import { FdWriter, readChunks } from "@stevedore/os/io";
import { ConsoleSocket, setWindowSize } from "@stevedore/os/pty";
import type { ProcessDeposits } from "../deposits.ts";
import { AppendFile } from "./append-file.ts";
import { Logger } from "./logger.ts";
import type { Adoption } from "./process-io.ts";
import { planOutput, type StdioNames } from "./target.ts";

export interface ConsoleOptions {
  readonly names: StdioNames;
  readonly id: string;
  readonly namespace: string;
  readonly env: Readonly<Record<string, string>>;
  /** Where what could not be opened again is deposited. */
  readonly kept: ProcessDeposits;
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

  readonly #kept: ProcessDeposits;

  private constructor(master: OwnedFd, kept: ProcessDeposits) {
    this.#kept = kept;
    this.#master = master;
    kept.keep("pty", master.fd);
    this.#toTerminal = new FdWriter(duplicate(master.fd));
  }

  /** Takes the terminal the runtime sends and starts copying. */
  static async receive(socket: ConsoleSocket, options: ConsoleOptions): Promise<ProcessConsole> {
    const master = await socket.receive(AbortSignal.timeout(CONSOLE_TIMEOUT_MS));
    const console = new ProcessConsole(master, options.kept);
    try {
      await console.#connect(options);
      return console;
    } catch (error) {
      await console.close();
      throw error;
    }
  }

  /** Goes on with the terminal of a process that another shim began; undefined when nobody holds it any more. */
  static async adopt(options: ConsoleOptions, adoption: Adoption): Promise<ProcessConsole | undefined> {
    const master = adoption.taken.get("pty");
    if (master === undefined) {
      adoption.lost("terminal: nobody holds it any more");
      return undefined;
    }
    const console = new ProcessConsole(new OwnedFd(master.release()), options.kept);
    await console.#adoptOutput(options, adoption);
    console.#adoptInput(options, adoption);
    return console;
  }

  async #adoptOutput(options: ConsoleOptions, { taken, lost }: Adoption): Promise<void> {
    let write: (bytes: Uint8Array) => Promise<void> = () => Promise.resolve();
    try {
      const held = taken.get("pty-to");
      if (held !== undefined) write = this.#writeTo(new FdWriter(held.release()));
      else {
        const plan = await planOutput({ ...options.names, stderr: "" });
        if (plan.kind === "log-file") write = await this.#appendTo(plan.path);
        else if (plan.kind === "logger") lost("terminal: its logger is gone");
        else if (plan.stdout.kind === "file") write = await this.#appendTo(plan.stdout.path);
        else if (plan.stdout.kind === "fifo")
          write = this.#writeTo(new FdWriter(openFifoBoth(plan.stdout.path).release()));
      }
    } catch (error) {
      lost(`terminal's output: ${messageOf(error)}`);
    }
    this.#output = this.#copyOutput(duplicate(this.#master.fd), write);
  }

  #adoptInput({ names }: ConsoleOptions, { taken, lost, stdinClosed }: Adoption): void {
    if (names.stdin === "") return;
    try {
      if (!stdinClosed) this.#keepWriter(new FdWriter((taken.get("stdin") ?? openFifoBoth(names.stdin)).release()));
      const reader = new OwnedFd((taken.get("stdin-from") ?? openFifoReaderNow(names.stdin)).release());
      this.#beginInput(reader);
    } catch (error) {
      lost(`terminal's input: ${messageOf(error)}`);
    }
  }

  #keepWriter(writer: FdWriter): void {
    this.#stdinWriter = writer;
    this.#held.push(writer);
    this.#kept.keep("stdin", writer.fd);
  }

  #beginInput(reader: OwnedFd): void {
    this.#kept.keep("stdin-from", reader.fd);
    void this.#copyInput(reader.release());
  }

  #writeTo(writer: FdWriter): (bytes: Uint8Array) => Promise<void> {
    this.#held.push(writer);
    this.#kept.keep("pty-to", writer.fd);
    return (bytes) => writer.write(bytes, this.#abort.signal);
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
    this.#kept.forget("stdin");
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
    // With a copy of the master left anywhere the terminal would not hang up.
    this.#kept.forget("pty", "stdin-from");
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
    this.#keepWriter(await openFifoWriter(names.stdin));
    this.#beginInput(reader);
  }

  async #openOutput(options: ConsoleOptions): Promise<(bytes: Uint8Array) => Promise<void>> {
    const { signal } = this.#abort;
    const plan = await planOutput({ ...options.names, stderr: "" });
    switch (plan.kind) {
      case "logger": {
        const logger = await Logger.start({ ...options, ...plan });
        this.#logger = logger;
        logger.stderr.close();
        return this.#writeTo(new FdWriter(logger.stdout.release()));
      }
      case "log-file":
        return this.#appendTo(plan.path);
      case "streams":
        if (plan.stdout.kind === "null") return () => Promise.resolve();
        if (plan.stdout.kind === "file") return this.#appendTo(plan.stdout.path);
        return this.#writeTo(await openFifoWriter(plan.stdout.path, { keepReader: true, signal }));
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
    this.#kept.forget("pty-to", "stdin", "stdin-from");
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
