// Running a program in a test: output kept, a time limit always, and the whole group killed when it passes.

/** How many times slower this machine is than those that limits are made for: what starts tests in an emulated one says so. */
const SLOWNESS = Math.max(1, Number(process.env["STEVEDORE_SLOW"] || "1"));

/** A time limit as this machine needs it, of one in milliseconds for a machine that does nothing else. */
export function patience(limitMs: number): number {
  return limitMs * SLOWNESS;
}

export type Result = {
  /** Exit status; 128 + signal when killed by one. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
};

export type ExecOptions = {
  readonly stdin?: string | Uint8Array;
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** Default 20 s: a third of what a case has, so that the command that hangs is named. */
  readonly timeoutMs?: number;
  /** Runs it on a terminal of its own (util-linux' script); stdout has both streams then. */
  readonly tty?: boolean;
};

const SIGNALS: Readonly<Record<string, number>> = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGQUIT: 3,
  SIGKILL: 9,
  SIGPIPE: 13,
  SIGTERM: 15,
};

function quoted(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}

/** Runs a command to its end. Throws only when it does not end in time. */
export async function exec(command: readonly string[], options: ExecOptions = {}): Promise<Result> {
  const line = options.tty === true ? ["script", "-qec", command.map(quoted).join(" "), "/dev/null"] : [...command];
  const limit = patience(options.timeoutMs ?? 20_000);
  const child = Bun.spawn(line, {
    env: { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? "/", ...options.env },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    stdin:
      options.stdin === undefined
        ? "ignore"
        : new Blob([typeof options.stdin === "string" ? options.stdin : new Uint8Array(options.stdin)]),
    stdout: "pipe",
    stderr: "pipe",
    timeout: limit,
    killSignal: "SIGKILL",
  });
  const started = performance.now();
  const kept = [collect(child.stdout), collect(child.stderr)] as const;
  const code = await child.exited;
  // A process it left behind may hold the pipes for ever; what the command itself wrote is there by then.
  await Promise.race([Promise.all(kept.map((one) => one.done)), Bun.sleep(2_000)]);
  const [stdout, stderr] = [kept[0].text(), kept[1].text()];
  if (performance.now() - started >= limit) {
    throw new Error(`${command.join(" ")}: did not end within ${limit} ms\nstdout: ${stdout}\nstderr: ${stderr}`);
  }
  return { code: child.signalCode === null ? code : 128 + (SIGNALS[child.signalCode] ?? 0), stdout, stderr };
}

/** A program that goes on while the test does other things. */
export type Running = {
  readonly pid: number;
  /** What it has written so far. */
  readonly stdout: () => string;
  readonly stderr: () => string;
  readonly exited: Promise<number>;
  /** Writes to its standard input. */
  readonly write: (text: string) => void;
  readonly closeInput: () => void;
  /** Ends it with a signal (TERM) and waits. */
  readonly stop: (signal?: NodeJS.Signals) => Promise<number>;
};

/** Starts a program and comes back at once. */
export function start(command: readonly string[], options: Pick<ExecOptions, "env" | "cwd"> = {}): Running {
  const child = Bun.spawn([...command], {
    env: { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? "/", ...options.env },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    stdin: "pipe",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [stdout, stderr] = [collect(child.stdout), collect(child.stderr)];
  return {
    pid: child.pid,
    stdout: stdout.text,
    stderr: stderr.text,
    exited: child.exited,
    write: (text) => {
      void child.stdin.write(text);
      void child.stdin.flush();
    },
    closeInput: () => {
      void child.stdin.end();
    },
    stop: async (signal = "SIGTERM") => {
      child.kill(signal);
      return child.exited;
    },
  };
}

function collect(stream: ReadableStream<Uint8Array>): { readonly done: Promise<void>; readonly text: () => string } {
  const parts: Uint8Array[] = [];
  const read = async (): Promise<void> => {
    for await (const part of stream) parts.push(part);
  };
  return { done: read(), text: () => Buffer.concat(parts).toString() };
}

/** Tries until `probe` answers something other than undefined. Throws after the limit, naming what it waited for. */
export async function eventually<T>(
  what: string,
  probe: () => Promise<T | undefined> | T | undefined,
  limitMs = 10_000,
): Promise<T> {
  const limit = patience(limitMs);
  const end = performance.now() + limit;
  for (;;) {
    const found = await probe();
    if (found !== undefined) return found;
    if (performance.now() > end) throw new Error(`waited ${limit} ms for ${what}`);
    await Bun.sleep(20);
  }
}
