/** The kinds of profiles that `ctr pprof` fetches from a daemon's debug socket. */
import { classified, messageOf } from "@stevedore/base";
import type { Command } from "../../kit/command.ts";
import { durationFlag, intFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";
import type { CtrGlobals } from "../globals.ts";

/** How much of a refusal's text an error shows. */
const SHOWN_ERROR_LENGTH = 2048;

type Parents = ReadonlyMap<string, Readonly<Record<string, unknown>>>;

function debugSocket(parents: Parents): string {
  const path = parents.get("pprof")?.["debugSocket"];
  if (typeof path !== "string" || path === "") throw new Error("debug socket path must be provided");
  return path;
}

interface Fetched {
  readonly socket: string;
  readonly path: string;
  readonly signal: AbortSignal;
  readonly write: (chunk: Uint8Array) => void;
}

async function fetchProfile({ socket, path, signal, write }: Fetched): Promise<void> {
  let response: Response;
  try {
    response = await fetch(`http://localhost${path}`, { unix: socket, signal });
  } catch (error) {
    throw classified("unavailable", `get ${path} from debug socket ${socket}: ${messageOf(error)}`, { cause: error });
  }
  if (!response.ok) {
    const text = (await response.text()).slice(0, SHOWN_ERROR_LENGTH).trim();
    const errorClass = response.status === 501 ? "not-implemented" : "unknown";
    throw classified(errorClass, `get ${path} from debug socket ${socket}: ${response.status} ${text}`);
  }
  const body: AsyncIterable<Uint8Array> | null = response.body;
  if (body === null) return;
  for await (const chunk of body) write(chunk);
}

function snapshotKind(kind: string, debug: number): Command<CtrGlobals> {
  return ctrCommand({
    flags: {
      debug: intFlag("debug", "output format, value = 0: binary, value > 0: plaintext", {
        initial: debug,
        unsigned: true,
      }),
    },
    action: async ({ flags, io, parents }) => {
      await fetchProfile({
        socket: debugSocket(parents),
        path: `/debug/pprof/${kind}?debug=${flags.debug}`,
        signal: io.signal,
        write: (chunk) => io.stdout.write(chunk),
      });
      return 0;
    },
  });
}

function timedKind(kind: string, of: { readonly usage: string; readonly initialMs: number }): Command<CtrGlobals> {
  return ctrCommand({
    flags: {
      seconds: durationFlag("seconds", of.usage, { aliases: ["s"], initialMs: of.initialMs }),
      debug: intFlag("debug", "output format, value = 0: binary, value > 0: plaintext", { unsigned: true }),
    },
    action: async ({ flags, io, parents }) => {
      await fetchProfile({
        socket: debugSocket(parents),
        path: `/debug/pprof/${kind}?seconds=${flags.seconds / 1000}&debug=${flags.debug}`,
        signal: io.signal,
        write: (chunk) => io.stdout.write(chunk),
      });
      return 0;
    },
  });
}

export const block = snapshotKind("block", 0);
export const goroutines = snapshotKind("goroutine", 2);
export const heap = snapshotKind("heap", 0);
export const threadcreate = snapshotKind("threadcreate", 0);
export const profile = timedKind("profile", { usage: "duration for collection (seconds)", initialMs: 30_000 });
export const trace = timedKind("trace", { usage: "trace time (seconds)", initialMs: 5000 });
