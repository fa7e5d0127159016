import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { removeFolder, unlinkEntry } from "@stevedore/os/at-calls";
import { ERRNO } from "@stevedore/os/errno";
import { AT, readInto } from "@stevedore/os/fd";
import { openFifoReaderNow } from "@stevedore/os/fifo";
import { armForSignals, POLL, untilReady } from "@stevedore/os/io";
import { isAlive, sendSignal } from "@stevedore/os/process";
import type { KnownState } from "./known-state.ts";

/**
 * What `runc start`, `kill` and `delete` do to a container of {@link KnownState}, without a start of runc (5 to 10 ms each). Each
 * says false when there is anything unusual, having changed nothing that runc minds: runc is called then, and decides.
 * docs/decisions/0120-runc-without-runc.md says what runc does and what of it is left out.
 */

/** How long init may take to come to its FIFO before it is looked at whether it lives; runc's figure. */
const LOOK_MS = 100;

/** Lets the init of a created container go on to the user's program. */
export async function releaseInit(known: KnownState): Promise<boolean> {
  const { folder, freezerFile, hooks } = known;
  if (hooks.has("poststart") || (await isFrozen(freezerFile))) return false;
  const path = join(folder, "exec.fifo");
  let fifo: ReturnType<typeof openFifoReaderNow>;
  try {
    fifo = openFifoReaderNow(path);
  } catch {
    return false;
  }
  using _fifo = fifo;
  const buffer = new Uint8Array(16);
  armForSignals(fifo.fd);
  for (;;) {
    // Asked before the read: our opening has let init go, and it may write, run its program and end between two lines of ours.
    const alive = isAlive(known);
    const count = readInto(fifo.fd, buffer);
    if (count > 0) {
      unlinkEntry(AT.FDCWD, path);
      return true;
    }
    // No writer yet shows as the end, a writer that has not written as EAGAIN.
    if (count < 0 && count !== -ERRNO.EAGAIN) return false;
    if (!alive) return false;
    await untilReady({ fd: fifo.fd, events: POLL.IN, signal: AbortSignal.timeout(LOOK_MS) });
  }
}

/** Sends a signal to init, if that very process is still there. */
export async function signalInit(known: KnownState, signal: number): Promise<boolean> {
  const { pid, startTicks, freezerFile, privatePids } = known;
  if (!privatePids || (await isFrozen(freezerFile)) || !isAlive({ pid, startTicks })) return false;
  return sendSignal(pid, signal);
}

/** Removes what runc keeps of a container whose init has been reaped. */
export async function removeState({ folder, cgroups, privatePids, hooks }: KnownState): Promise<boolean> {
  if (!privatePids || hooks.has("poststop")) return false;
  // On this thread: each is some 50 µs, and a trip to another thread and back takes longer.
  for (const path of cgroups) if (!isGone(removeFolder(AT.FDCWD, path))) return false;
  unlinkEntry(AT.FDCWD, join(folder, "state.json"));
  if (!isGone(removeFolder(AT.FDCWD, folder))) await rm(folder, { recursive: true, force: true });
  return true;
}

/** Whether a folder is gone. A cgroup with groups of its own, or one in use, is runc's to remove. */
function isGone(result: number): boolean {
  return result >= 0 || result === -ERRNO.ENOENT;
}

/** Whether somebody has frozen it, or nobody can tell: `runc pause` may be called past us. */
async function isFrozen(file: string): Promise<boolean> {
  try {
    const text = (await readFile(file, "utf8")).trim();
    return text !== "THAWED" && text !== "0";
  } catch {
    return true;
  }
}
