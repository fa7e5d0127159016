import { messageOf } from "@stevedore/base/errors";
import { isErrno } from "@stevedore/os/errno";
import { setChildSubreaper, setProcessName } from "@stevedore/os/process";
import {
  awaitConnection,
  isListening,
  listenUnix,
  peerCredentials,
  removeStaleSocket,
  SOCK,
} from "@stevedore/os/socket";
import { Keeper } from "./keeper.ts";

/** How often a keeper that nobody told anything looks whether it is still needed: idle shims end without a word. */
const LOOK_MS = 500;

/** How long a keeper waits for its daemon's first call. */
const FIRST_CALL_MS = 30_000;

/**
 * The keeper: see docs/decisions/0110-keeper.md. Arguments: `-address ADDRESS -socket PATH`; the address is there for people
 * who read `ps`.
 *
 * @returns the exit code
 */
export async function runKeeper(argv: readonly string[]): Promise<number> {
  const at = argv.indexOf("-socket");
  const path = at < 0 ? "" : (argv[at + 1] ?? "");
  if (path === "") {
    process.stderr.write("stevedore keeper: needs -socket PATH\n");
    return 2;
  }
  setProcessName("stevedore-keep");
  setChildSubreaper();
  // It outlives what a service manager or a terminal tells its group.
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) process.on(signal, () => undefined);
  const ended = Promise.withResolvers<void>();
  let met = false;
  let look: ReturnType<typeof setInterval> | undefined;
  const keeper = new Keeper(() => {
    if (met && keeper.isNeedless) ended.resolve();
    // While a daemon is there nothing has to be looked at, and nothing wakes this process up.
    if (keeper.isAttended) {
      clearInterval(look);
      look = undefined;
    } else {
      look ??= setInterval(() => {
        if (met && keeper.isNeedless) ended.resolve();
      }, LOOK_MS);
    }
  });
  const listener = listen(path);
  if (listener === undefined) return 0; // another one serves there already
  const own = process.geteuid?.() ?? 0;
  const stop = new AbortController();
  const accepting = (async (): Promise<void> => {
    for (;;) {
      const connection = await awaitConnection(listener.fd, stop.signal);
      const { uid } = peerCredentials(connection.fd);
      if (uid !== own && uid !== 0) {
        connection.close();
        continue;
      }
      met = true;
      keeper.serve(connection).catch((error: unknown) => {
        process.stderr.write(`stevedore keeper: ${messageOf(error)}\n`);
      });
    }
  })().catch((error: unknown) => {
    if (!stop.signal.aborted) process.stderr.write(`stevedore keeper: accept: ${messageOf(error)}\n`);
  });
  const first = setTimeout(() => {
    met = true;
    if (keeper.isNeedless) ended.resolve();
  }, FIRST_CALL_MS);
  await ended.promise;
  clearInterval(look);
  clearTimeout(first);
  // Who connects from here on finds nobody, and starts another one.
  const { rmSync } = await import("node:fs");
  rmSync(path, { force: true });
  stop.abort();
  listener.close();
  await accepting;
  return 0;
}

function listen(path: string): ReturnType<typeof listenUnix> | undefined {
  if (isListening(path, SOCK.SEQPACKET)) return undefined;
  removeStaleSocket(path, SOCK.SEQPACKET);
  try {
    return listenUnix(path, { kind: SOCK.SEQPACKET, backlog: 128 });
  } catch (error) {
    if (isErrno(error, "EADDRINUSE")) return undefined;
    throw error;
  }
}
