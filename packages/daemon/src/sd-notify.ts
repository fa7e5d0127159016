/** Tells systemd how the daemon is: ready, stopping, and alive while its watchdog asks for that. */
import { type Logger, messageOf } from "@stevedore/base";
import { writeAll } from "@stevedore/os/fd";
import { connectUnix, SOCK } from "@stevedore/os/socket";

const MICROSECONDS_PER_MS = 1000;

/** systemd asks for a sign of life at least at half the interval: sd_watchdog_enabled(3). */
const SIGNS_PER_INTERVAL = 2;

let watchdog: NodeJS.Timeout | undefined;

/** Sends READY=1 and answers the watchdog from now on, where the service manager asked for either. Never throws. */
export async function notifyReady(log: Logger, env: NodeJS.ProcessEnv = process.env): Promise<void> {
  notify("READY=1", log, env);
  const interval = watchdogInterval(env);
  if (interval === undefined) return;
  watchdog = setInterval(() => notify("WATCHDOG=1", log, env), interval / SIGNS_PER_INTERVAL);
  watchdog.unref();
}

/** Sends STOPPING=1. Never throws. */
export async function notifyStopping(log: Logger, env: NodeJS.ProcessEnv = process.env): Promise<void> {
  clearInterval(watchdog);
  watchdog = undefined;
  notify("STOPPING=1", log, env);
}

function notify(state: string, log: Logger, env: NodeJS.ProcessEnv): void {
  const address = env["NOTIFY_SOCKET"];
  if (address === undefined || address === "") {
    log.debug("sd notification", { notified: false, state });
    return;
  }
  try {
    using socket = connectUnix(address, { kind: SOCK.DGRAM });
    writeAll(socket.fd, Buffer.from(state));
    log.debug("sd notification", { notified: true, state });
  } catch (error) {
    log.warn("failed to send sd notification", { state, error: messageOf(error) });
  }
}

/** Milliseconds between signs of life, undefined when nobody asks this process for any. */
function watchdogInterval(env: NodeJS.ProcessEnv): number | undefined {
  const pid = env["WATCHDOG_PID"];
  if (pid !== undefined && pid !== "" && Number(pid) !== process.pid) return undefined;
  const micros = Number(env["WATCHDOG_USEC"] ?? "");
  return Number.isFinite(micros) && micros > 0 ? micros / MICROSECONDS_PER_MS : undefined;
}
