/** The kinds of profiles that `ctr pprof` and `ctr shim pprof` fetch from a debug socket. */
import { existsSync } from "node:fs";
import { classified, messageOf } from "@stevedore/base";
import type { Command, RawInvocation } from "../../kit/command.ts";
import { durationFlag, intFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";
import type { CtrGlobals } from "../globals.ts";

/** How much of a refusal's text an error shows. */
const SHOWN_ERROR_LENGTH = 2048;

/** Where the process that is looked into may serve its profiles, in the order they are tried. At least one. */
export type DebugSockets = (
  call: Pick<RawInvocation<CtrGlobals>, "globals" | "parents">,
) => readonly [string, ...string[]];

interface Fetched {
  readonly sockets: readonly [string, ...string[]];
  readonly path: string;
  readonly signal: AbortSignal;
  readonly write: (chunk: Uint8Array) => void;
}

async function fetchProfile({ sockets, path, signal, write }: Fetched): Promise<void> {
  const socket = sockets.find((one) => existsSync(one)) ?? sockets[0];
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

function snapshotKind(sockets: DebugSockets, kind: string, debug = 0): Command<CtrGlobals> {
  return ctrCommand({
    flags: {
      debug: intFlag("debug", "output format, value = 0: binary, value > 0: plaintext", {
        initial: debug,
        unsigned: true,
      }),
    },
    action: async (call) => {
      await fetchProfile({
        sockets: sockets(call),
        path: `/debug/pprof/${kind}?debug=${call.flags.debug}`,
        signal: call.io.signal,
        write: (chunk) => call.io.stdout.write(chunk),
      });
      return 0;
    },
  });
}

function timedKind(
  sockets: DebugSockets,
  kind: string,
  of: { readonly usage: string; readonly initialMs: number },
): Command<CtrGlobals> {
  return ctrCommand({
    flags: {
      seconds: durationFlag("seconds", of.usage, { aliases: ["s"], initialMs: of.initialMs }),
      debug: intFlag("debug", "output format, value = 0: binary, value > 0: plaintext", { unsigned: true }),
    },
    action: async (call) => {
      const { seconds, debug } = call.flags;
      await fetchProfile({
        sockets: sockets(call),
        path: `/debug/pprof/${kind}?seconds=${seconds / 1000}&debug=${debug}`,
        signal: call.io.signal,
        write: (chunk) => call.io.stdout.write(chunk),
      });
      return 0;
    },
  });
}

/** One command a kind, for processes that are found by `sockets`. */
export function profileCommands(sockets: DebugSockets): Readonly<Record<ProfileName, Command<CtrGlobals>>> {
  return {
    block: snapshotKind(sockets, "block"),
    goroutines: snapshotKind(sockets, "goroutine", 2),
    heap: snapshotKind(sockets, "heap"),
    threadcreate: snapshotKind(sockets, "threadcreate"),
    profile: timedKind(sockets, "profile", { usage: "duration for collection (seconds)", initialMs: 30_000 }),
    trace: timedKind(sockets, "trace", { usage: "trace time (seconds)", initialMs: 5000 }),
  };
}

type ProfileName = "block" | "goroutines" | "heap" | "profile" | "threadcreate" | "trace";
