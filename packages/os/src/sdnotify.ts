import { messageOf } from "@stevedore/base/errors";
import { check } from "./errno.ts";
import { i32, libc, pointer } from "./ffi.ts";
import { connectUnix, SOCK, sendDescriptors } from "./socket.ts";

/**
 * Telling systemd how a service is doing; sd_notify(3). The socket is named by NOTIFY_SOCKET, which children never get:
 * their environment is a listed one.
 */

/** What to tell, as sd_notify(3) names it: READY, RELOADING, STOPPING, STATUS, MAINPID, WATCHDOG, ERRNO … */
export type ServiceState = Readonly<Record<string, string>>;

export interface NotifyOptions {
  /** Default: NOTIFY_SOCKET of our environment. A path, or `@name` for the abstract space. */
  readonly socket?: string;
}

/**
 * Sends one state. Does not wait: a local datagram. Returns false when no service manager asked to be told; a manager
 * that has gone is no error of ours either, and the text says why for the log.
 */
export function notifyService(state: ServiceState, options: NotifyOptions = {}): { sent: boolean; reason?: string } {
  const path = options.socket ?? process.env["NOTIFY_SOCKET"] ?? "";
  if (path === "") return { sent: false };
  if (!path.startsWith("/") && !path.startsWith("@"))
    return { sent: false, reason: `NOTIFY_SOCKET ${path}: no unix socket` };
  const lines = Object.entries(state).map(([key, value]) => `${key}=${value.replaceAll("\n", " ")}`);
  try {
    using socket = connectUnix(path, { kind: SOCK.DGRAM });
    const sent = sendDescriptors(socket.fd, new TextEncoder().encode(`${lines.join("\n")}\n`), []);
    return sent === undefined ? { sent: false, reason: `NOTIFY_SOCKET ${path}: its queue is full` } : { sent: true };
  } catch (error) {
    return { sent: false, reason: messageOf(error) };
  }
}

/** The service serves. */
export function notifyReady(options?: NotifyOptions): boolean {
  return notifyService({ READY: "1" }, options).sent;
}

/** The service is going down. */
export function notifyStopping(options?: NotifyOptions): boolean {
  return notifyService({ STOPPING: "1" }, options).sent;
}

/**
 * The service reads its configuration again; tell it ready after that. With the monotonic clock, which Type=notify-reload
 * needs to match the request.
 */
export function notifyReloading(options?: NotifyOptions): boolean {
  return notifyService({ RELOADING: "1", MONOTONIC_USEC: String(monotonicMicroseconds()) }, options).sent;
}

const lib = libc({ clock_gettime: { args: [i32, pointer], returns: i32 } });
const CLOCK_MONOTONIC = 1;

/** The clock systemd compares with; Bun's own monotonic clock counts from the start of the process. */
function monotonicMicroseconds(): bigint {
  const now = new BigInt64Array(2);
  check(lib().clock_gettime(CLOCK_MONOTONIC, now), "clock_gettime");
  return (now[0] ?? 0n) * 1_000_000n + (now[1] ?? 0n) / 1_000n;
}

/**
 * How often the manager wants to hear from us (WATCHDOG_USEC), in milliseconds, when it means this very process;
 * undefined when it does not. Notify at half of it.
 */
export function watchdogInterval(env: Readonly<Record<string, string | undefined>> = process.env): number | undefined {
  const microseconds = Number(env["WATCHDOG_USEC"]);
  const pid = env["WATCHDOG_PID"];
  if (!Number.isSafeInteger(microseconds) || microseconds <= 0) return undefined;
  if (pid !== undefined && Number(pid) !== process.pid) return undefined;
  return microseconds / 1_000;
}
