import { classified, decodeText } from "@stevedore/base";
import type { ApplyOptions } from "@stevedore/core/diff";
import { MediaType } from "@stevedore/oci/media-types";
import { OwnedFd, pipe, writeAll } from "@stevedore/os/fd";
import { readChunks } from "@stevedore/os/io";
import { SIGKILL } from "@stevedore/os/signals";
import { type Child, pickEnvironment, spawnChild } from "@stevedore/os/spawn";

/** A program that turns layers of one media type into another: `[stream_processors."id"]` of the config file. */
export interface StreamProcessor {
  readonly id: string;
  /** Media types it takes. */
  readonly accepts: readonly string[];
  /** The media type that comes out. */
  readonly returns: string;
  /** The program: reads the layer on stdin, writes the other to stdout. */
  readonly path: string;
  readonly args: readonly string[];
  /** Further variables of its environment, as `NAME=value`. */
  readonly env: readonly string[];
}

interface Step {
  readonly processor: StreamProcessor;
  /** The media type it is given. */
  readonly mediaType: string;
}

export interface StreamPlan {
  readonly steps: readonly Step[];
  /** What comes out of the last step. */
  readonly mediaType: string;
}

/** Processors one layer may go through; more is a circle in the configuration. */
const MAX_STEPS = 16;

/** containerd's name for the variable that tells a processor what it is given. */
const MEDIA_TYPE_VARIABLE = "STREAM_PROCESSOR_MEDIATYPE";

/** What of our own environment a processor gets: programs find others, keys and scratch space by these. */
const INHERITED = ["PATH", "HOME", "TMPDIR", "LANG"];

/** Kept of what a processor says on stderr. */
const MAX_STDERR = 4_096;

/**
 * Which processors a layer goes through before its tar can be read: the last configured one that takes the type, until
 * none does or a plain tar comes out. @throws invalid-argument when that does not end
 */
export function planStream(mediaType: string, processors: readonly StreamProcessor[]): StreamPlan {
  const steps: Step[] = [];
  let at = mediaType;
  for (;;) {
    const current = at;
    const processor = processors.findLast((candidate) => candidate.accepts.includes(current));
    if (processor === undefined) return { steps, mediaType: at };
    if (steps.length >= MAX_STEPS) {
      throw classified("invalid-argument", `stream processors for ${mediaType} form a circle: invalid argument`);
    }
    steps.push({ processor, mediaType: at });
    at = processor.returns;
    if (at === MediaType.ociLayer) return { steps, mediaType: at };
  }
}

export interface ProcessOptions {
  readonly payloads: ApplyOptions["payloads"];
  readonly signal: AbortSignal;
}

/**
 * Runs the processors of a plan in a chain from `input` (borrowed) and calls `use` with the descriptor of what comes out.
 *
 * @throws what a processor said on stderr when it failed; otherwise what `use` throws.
 */
export async function processStream<T>(
  steps: readonly Step[],
  input: number,
  options: ProcessOptions & { readonly use: (fd: number) => Promise<T> },
): Promise<T> {
  const { payloads = {}, signal, use } = options;
  await using stack = new AsyncDisposableStack();
  const children: { readonly child: Child; readonly said: Promise<string>; readonly name: string }[] = [];
  let from = input;
  let before: OwnedFd | undefined;
  for (const { processor, mediaType } of steps) {
    const out = pipe();
    const end = stack.use(new OwnedFd(out.read));
    using write = new OwnedFd(out.write);
    const payload = payloads[processor.id];
    using given = payload === undefined ? undefined : payloadPipe(payload);
    const variables = Object.fromEntries(processor.env.map((line) => splitVariable(line)));
    const child = stack.use(
      spawnChild([processor.path, ...processor.args], {
        env: { ...pickEnvironment(INHERITED), ...variables, [MEDIA_TYPE_VARIABLE]: mediaType },
        stdin: { fd: from },
        stdout: { fd: write.fd },
        stderr: "pipe",
        signal,
        killSignal: SIGKILL,
        ...(given === undefined ? {} : { extraFds: [given.fd] }),
      }),
    );
    children.push({ child, said: collect(child), name: processor.path });
    // Only the child reads the step before now; our end would keep a broken chain waiting.
    before?.close();
    before = end;
    from = end.fd;
  }
  const [used] = await Promise.allSettled([use(from)]);
  before?.close(); // nobody reads any more: whoever still writes gets EPIPE
  for (const { child, said, name } of children) {
    const finished = await Promise.race([child.exited, Bun.sleep(END_GRACE_MS)]);
    if (finished === undefined) continue;
    // One that was stopped because the worker gave up is not to blame.
    const toBlame = used.status === "fulfilled" || finished.signal === undefined;
    if (finished.code !== 0 && toBlame) throw failed(name, await said);
  }
  signal.throwIfAborted();
  if (used.status === "rejected") throw used.reason;
  return used.value;
}

/** How long a processor may take to end after its output was read; then it is killed. */
const END_GRACE_MS = 5_000;

function failed(name: string, said: string): Error {
  return classified("unknown", said === "" ? `stream processor ${name} failed` : said);
}

async function collect(child: Child): Promise<string> {
  const end = child.stderr;
  if (end === undefined) return "";
  let text = "";
  for await (const chunk of readChunks(end.release())) {
    if (text.length < MAX_STDERR) text += decodeText(chunk);
  }
  return text.slice(0, MAX_STDERR).trim();
}

function splitVariable(line: string): [name: string, value: string] {
  const equals = line.indexOf("=");
  return equals < 0 ? [line, ""] : [line.slice(0, equals), line.slice(equals + 1)];
}

/** What a pipe holds without anybody reading; pipe(7). */
const PIPE_CAPACITY = 65_536;

/** The payload as a protobuf Any on a pipe, as processors expect it on their descriptor 3. */
function payloadPipe(payload: { readonly typeUrl: string; readonly value: Uint8Array }): OwnedFd {
  const bytes = encodeAny(payload);
  if (bytes.length > PIPE_CAPACITY) {
    throw classified(
      "invalid-argument",
      `payload of a stream processor has ${bytes.length} bytes, limit ${PIPE_CAPACITY}`,
    );
  }
  const ends = pipe();
  using write = new OwnedFd(ends.write);
  const read = new OwnedFd(ends.read);
  writeAll(write.fd, bytes);
  return read;
}

/** google.protobuf.Any: field 1 the type URL, field 2 the value. */
function encodeAny({ typeUrl, value }: { readonly typeUrl: string; readonly value: Uint8Array }): Uint8Array {
  const url = Buffer.from(typeUrl, "utf8");
  const field = (tag: number, bytes: Uint8Array): readonly Uint8Array[] =>
    bytes.length === 0 ? [] : [Buffer.from([tag]), varint(bytes.length), bytes];
  return Buffer.concat([...field(0x0a, url), ...field(0x12, value)]);
}

function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 0x80; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 0x80);
  bytes.push(rest);
  return Uint8Array.from(bytes);
}
