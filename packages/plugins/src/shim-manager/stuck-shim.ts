import { readdir, readFile } from "node:fs/promises";
import type { Logger } from "@stevedore/base";
import { isErrorClass } from "@stevedore/base";
import { sendSignal } from "@stevedore/os/process";
import { SIGKILL } from "@stevedore/os/signals";
import type { ShimConnection } from "./shim-client.ts";

/** How long a delete or a kill may take before its shim is asked whether it answers at all, milliseconds. */
const PATIENCE_MS = 10_000;

/** How long it may take to say so. It answers at once, whatever its runtime does, unless it is stopped. */
const ANSWER_MS = 5_000;

/**
 * The outcome of a call without which a task cannot be got rid of. A shim of ours that answers nothing meanwhile (it is stopped) is
 * killed: another one takes over, and the call is made again there.
 */
export async function orKillStuck<T>(
  work: Promise<T>,
  shim: { readonly id: string; readonly connection: ShimConnection; readonly log: Logger },
): Promise<T> {
  const { id, connection, log } = shim;
  const ended = work.then(
    () => true,
    () => true,
  );
  for (;;) {
    const late = new AbortController();
    const patience = sleep(PATIENCE_MS, late.signal);
    const isOver = await Promise.race([ended, patience.then(() => false)]);
    late.abort();
    if (isOver || connection.isClosed || (await answers(connection, id))) {
      if (isOver || connection.isClosed) return work;
      continue;
    }
    const pid = await processOf(connection.record.address);
    log.warn("killing a shim that does not answer, so that its tasks can be deleted", { id, pid });
    if (pid === undefined) return work;
    sendSignal(pid, SIGKILL);
  }
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        resolve();
      },
      { once: true },
    );
  });
}

async function answers(connection: ShimConnection, id: string): Promise<boolean> {
  try {
    await connection.call((task, options) => task.connect({ id }, options), { timeoutMs: ANSWER_MS });
    return true;
  } catch (error) {
    return !isErrorClass(error, "deadline-exceeded");
  }
}

/** The shim of ours that serves a socket: it has its path in its arguments. */
async function processOf(address: string): Promise<number | undefined> {
  const path = address.replace(/^unix:\/\//, "");
  for (const name of await readdir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const argv = (await readFile(`/proc/${name}/cmdline`, "utf8").catch(() => "")).split("\0");
    if (argv[argv.indexOf("-socket") + 1] === path && argv.includes("-socket")) return Number(name);
  }
  return undefined;
}
