import { chown, mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import { classified, messageOf } from "@stevedore/base/errors";
import { OwnedFd, pipe, setNonBlocking } from "@stevedore/os/fd";
import { FdWriter, openFifoBoth, openFifoReaderNow, openFifoWriter } from "@stevedore/os/fifo";
import type { ProcessDeposits } from "../deposits.ts";
import { NO_STDIO, type RuntimeStdio } from "../runc/client.ts";
import { AppendFile } from "./append-file.ts";
import { Logger } from "./logger.ts";
import { type OutputPlace, planOutput, type StdioNames } from "./target.ts";

/**
 * The streams of a process without a terminal. Made before the runtime is called, told when the runtime has them, closed
 * when the process is deleted.
 */
export interface ProcessIo {
  /** What the runtime is given. */
  readonly stdio: RuntimeStdio;
  /** The runtime has taken them: our copies of the child's ends are closed, copying begins. */
  started(): void;
  /** Ends the process's input once the client has closed its end too. May be called twice. */
  closeStdin(): void;
  /** Settles when all output has been copied; never rejects. */
  readonly drained: Promise<void>;
  /** Ends all copying and frees everything. May be called twice. */
  close(): Promise<void>;
}

export interface ProcessIoOptions {
  readonly names: StdioNames;
  /**
   * Init gets a FIFO itself, so that its output does not depend on this process; an exec gets a pipe and a copy,
   * because its client needs the end of file when a background child holds the stream.
   */
  readonly direct: boolean;
  readonly id: string;
  readonly namespace: string;
  readonly uid: number;
  readonly gid: number;
  readonly env: Readonly<Record<string, string>>;
  /** Where what could not be opened again is deposited. */
  readonly kept: ProcessDeposits;
}

/** Opens a process's streams. @throws what opening them throws; nothing stays open then */
export async function openProcessIo(options: ProcessIoOptions): Promise<ProcessIo> {
  const { names } = options;
  if (names.stdin === "" && names.stdout === "" && names.stderr === "") return NULL_IO;
  const io = new StreamIo(options.kept);
  try {
    await connect(io, options);
    return io;
  } catch (error) {
    await io.close();
    throw error;
  }
}

/** What a dead shim's streams are taken over with. */
export interface Adoption {
  /** Its descriptors by name, as the keeper gave them; those that are used are released. */
  readonly taken: ReadonlyMap<string, OwnedFd>;
  /** Told, in words, of each stream that could not be taken over. */
  readonly lost: (what: string) => void;
  readonly stdinClosed: boolean;
}

/** Goes on with the streams of a process that another shim began. Never fails: what is missing is told. */
export async function adoptProcessIo(options: ProcessIoOptions, adoption: Adoption): Promise<ProcessIo> {
  const { names } = options;
  if (names.stdin === "" && names.stdout === "" && names.stderr === "") return NULL_IO;
  const io = new StreamIo(options.kept);
  for (const stream of ["stdout", "stderr"] as const) {
    if (names[stream] !== "" || names.stdout.startsWith("file:")) await io.adoptOutput(stream, options, adoption);
  }
  if (names.stdin !== "") io.adoptStdin(options, adoption);
  io.started();
  return io;
}

const NULL_IO: ProcessIo = {
  stdio: NO_STDIO,
  started: () => undefined,
  closeStdin: () => undefined,
  drained: Promise.resolve(),
  close: () => Promise.resolve(),
};

async function connect(io: StreamIo, options: ProcessIoOptions): Promise<void> {
  const { names } = options;
  const plan = await planOutput(names);
  switch (plan.kind) {
    case "logger":
      await io.useLogger(await Logger.start({ ...options, ...plan }));
      return;
    case "log-file": {
      await mkdir(dirname(plan.path), { recursive: true, mode: 0o755 });
      const place: OutputPlace = { kind: "file", path: plan.path };
      await io.useOutput("stdout", place, options);
      if (plan.stderr) await io.useOutput("stderr", place, options);
      break;
    }
    case "streams":
      await io.useOutput("stdout", plan.stdout, options);
      await io.useOutput("stderr", plan.stderr, options);
      break;
  }
  if (names.stdin !== "") await io.useStdin(names.stdin, options);
}

/** A place output is copied to. */
interface Sink {
  write(bytes: Uint8Array, signal: AbortSignal): Promise<void>;
  close(): void;
}

class StreamIo implements ProcessIo {
  #stdin: number | undefined;
  #stdout: number | undefined;
  #stderr: number | undefined;
  /** The child's ends: closed once the runtime has them. */
  readonly #forChild: OwnedFd[] = [];
  /** Held until the end: FIFOs whose reader must not go away while the client is not there. */
  readonly #held: { close(): void }[] = [];
  readonly #copies: (() => Promise<void>)[] = [];
  readonly #abort = new AbortController();
  readonly #done = Promise.withResolvers<void>();
  #stdinWriter: { close(): void } | undefined;
  #files = new Map<string, AppendFile>();
  #logger: Logger | undefined;
  #started = false;
  #closed: Promise<void> | undefined;
  readonly #kept: ProcessDeposits;

  constructor(kept: ProcessDeposits) {
    this.#kept = kept;
  }

  get stdio(): RuntimeStdio {
    const given = (fd: number | undefined): { readonly fd: number } | "null" => (fd === undefined ? "null" : { fd });
    return { stdin: given(this.#stdin), stdout: given(this.#stdout), stderr: given(this.#stderr) };
  }

  get drained(): Promise<void> {
    return this.#done.promise;
  }

  async useLogger(logger: Logger): Promise<void> {
    this.#logger = logger;
    this.#stdout = logger.stdout.fd;
    this.#stderr = logger.stderr.fd;
  }

  async useOutput(stream: "stdout" | "stderr", place: OutputPlace, options: ProcessIoOptions): Promise<void> {
    if (place.kind === "null") return;
    const fd =
      place.kind === "fifo" && options.direct
        ? await this.#directOutput(place.path, options)
        : await this.#copiedOutput(stream, place, options);
    if (stream === "stdout") this.#stdout = fd;
    else this.#stderr = fd;
  }

  async useStdin(path: string, options: ProcessIoOptions): Promise<void> {
    // The reader first: a writer that does not wait needs one.
    const reader = openFifoReaderNow(path);
    try {
      const writer = await openFifoWriter(path);
      this.#stdinWriter = writer;
      this.#held.push(writer);
      this.#kept.keep("stdin", writer.fd);
    } catch (error) {
      reader.close();
      throw error;
    }
    if (options.direct) {
      setNonBlocking(reader.fd, false);
      this.#forChild.push(reader);
      this.#stdin = reader.fd;
      return;
    }
    const ends = pipe();
    const childEnd = new OwnedFd(ends.read);
    this.#forChild.push(childEnd);
    await giveTo(childEnd.fd, options);
    this.#stdin = childEnd.fd;
    const toChild = new FdWriter(ends.write);
    this.#beginInput(reader, toChild);
  }

  #beginInput(reader: OwnedFd, toChild: FdWriter): void {
    this.#held.push(toChild, reader);
    this.#kept.keep("stdin-from", reader.fd);
    this.#kept.keep("stdin-to", toChild.fd);
    // Input is nobody's to wait for: the copy is not part of `drained`.
    this.#onStart.push(() => void this.#copyInput(reader, toChild));
  }

  readonly #onStart: (() => void)[] = [];

  started(): void {
    if (this.#started) return;
    this.#started = true;
    for (const fd of this.#forChild.splice(0)) fd.close();
    this.#logger?.started();
    for (const begin of this.#onStart.splice(0)) begin();
    void Promise.all(this.#copies.splice(0).map((copy) => copy())).then(() => this.#done.resolve());
  }

  /** Goes on with an output that a dead shim copied; one that the process has directly needs nothing. */
  async adoptOutput(stream: "stdout" | "stderr", options: ProcessIoOptions, adoption: Adoption): Promise<void> {
    const from = adoption.taken.get(stream);
    const to = adoption.taken.get(`${stream}-to`);
    if (from === undefined) {
      if (!options.direct) adoption.lost(`${stream}: nobody holds its pipe any more`);
      return;
    }
    const ourEnd = new OwnedFd(from.release());
    this.#held.push(ourEnd);
    try {
      const sink = to === undefined ? await this.#reopenSink(stream, options.names) : this.#adoptFifo(stream, to);
      this.#beginCopy(stream, ourEnd, sink);
    } catch (error) {
      adoption.lost(`${stream}: ${messageOf(error)}`);
      ourEnd.close();
    }
  }

  #adoptFifo(stream: "stdout" | "stderr", to: OwnedFd): Sink {
    const writer = new FdWriter(to.release());
    this.#held.push(writer);
    this.#kept.keep(`${stream}-to`, writer.fd);
    return writer;
  }

  async #reopenSink(stream: "stdout" | "stderr", names: StdioNames): Promise<Sink> {
    const plan = await planOutput(names);
    if (plan.kind === "log-file") return this.#fileSink(plan.path);
    if (plan.kind === "logger") throw classified("unavailable", "its logger is gone");
    const place = plan[stream];
    if (place.kind === "null") throw classified("unavailable", "nobody takes it");
    return place.kind === "file" ? this.#fileSink(place.path) : this.#adoptFifo(stream, openFifoBoth(place.path));
  }

  /** Goes on with the input. */
  adoptStdin(options: ProcessIoOptions, { taken, lost, stdinClosed }: Adoption): void {
    const path = options.names.stdin;
    try {
      if (!stdinClosed) {
        // A new one is as good, unless the process has seen the end in between.
        const held = taken.get("stdin");
        if (held === undefined) lost("stdin: nobody held it open, so the process may have seen its end");
        const writer = new FdWriter((held ?? openFifoBoth(path)).release());
        this.#stdinWriter = writer;
        this.#held.push(writer);
        this.#kept.keep("stdin", writer.fd);
      }
      if (options.direct) return;
      const to = taken.get("stdin-to");
      if (to === undefined) {
        if (!stdinClosed) lost("stdin: nobody holds its pipe any more");
        return;
      }
      this.#beginInput(
        new OwnedFd((taken.get("stdin-from") ?? openFifoReaderNow(path)).release()),
        new FdWriter(to.release()),
      );
    } catch (error) {
      lost(`stdin: ${messageOf(error)}`);
    }
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
    this.#kept.forget("stdin", "stdin-from", "stdin-to", "stdout", "stdout-to", "stderr", "stderr-to");
    this.#abort.abort();
    for (const fd of this.#forChild.splice(0)) fd.close();
    this.closeStdin();
    for (const held of this.#held.splice(0)) held.close();
    if (!this.#started) this.#done.resolve();
    await this.#done.promise;
    for (const file of this.#files.values()) file.close();
    this.#files.clear();
    await this.#logger?.close();
  }

  async #directOutput(path: string, options: ProcessIoOptions): Promise<number> {
    const fifo = openFifoBoth(path);
    this.#forChild.push(fifo);
    setNonBlocking(fifo.fd, false);
    if (options.uid !== 0 || options.gid !== 0) await giveTo(fifo.fd, options);
    return fifo.fd;
  }

  async #copiedOutput(
    stream: "stdout" | "stderr",
    place: { readonly kind: "fifo" | "file"; readonly path: string },
    options: ProcessIoOptions,
  ): Promise<number> {
    const ends = pipe();
    const childEnd = new OwnedFd(ends.write);
    const ourEnd = new OwnedFd(ends.read);
    this.#forChild.push(childEnd);
    this.#held.push(ourEnd);
    await giveTo(childEnd.fd, options);
    const sink = await this.#sink(stream, place);
    this.#beginCopy(stream, ourEnd, sink);
    return childEnd.fd;
  }

  #beginCopy(stream: "stdout" | "stderr", from: OwnedFd, sink: Sink): void {
    this.#kept.keep(stream, from.fd);
    this.#copies.push(async () => {
      await this.#copyOutput(from, sink);
      // The process learns that nobody reads, and the client that nobody writes, only when the keeper lets go too.
      this.#kept.forget(stream, `${stream}-to`);
    });
  }

  async #sink(
    stream: "stdout" | "stderr",
    place: { readonly kind: "fifo" | "file"; readonly path: string },
  ): Promise<Sink> {
    if (place.kind === "fifo") {
      const writer = await openFifoWriter(place.path, { keepReader: true, signal: this.#abort.signal });
      this.#held.push(writer);
      this.#kept.keep(`${stream}-to`, writer.fd);
      return writer;
    }
    return this.#fileSink(place.path);
  }

  async #fileSink(path: string): Promise<Sink> {
    const shared = this.#files.get(path) ?? (await AppendFile.open(path));
    this.#files.set(path, shared);
    return { write: (bytes) => shared.write(bytes), close: () => undefined };
  }

  async #copyOutput(from: OwnedFd, sink: Sink): Promise<void> {
    const { readChunks } = await import("@stevedore/os/io");
    const { signal } = this.#abort;
    try {
      for await (const chunk of readChunks(from.release(), { signal })) await sink.write(chunk, signal);
    } catch {
      // The client's end is gone, or the process was deleted: nobody is left to tell.
    }
    sink.close();
  }

  async #copyInput(from: OwnedFd, to: FdWriter): Promise<void> {
    const { pump } = await import("@stevedore/os/io");
    await pump(from.release(), to, { signal: this.#abort.signal }).catch(() => undefined);
    this.#kept.forget("stdin-to", "stdin-from");
    to.close();
  }
}

/** Makes a pipe the user's the client named, so that /dev/stdout can be opened again inside. */
async function giveTo(fd: number, owner: { readonly uid: number; readonly gid: number }): Promise<void> {
  if (owner.uid === 0 && owner.gid === 0) return;
  await chown(`/proc/self/fd/${fd}`, owner.uid, owner.gid);
}
