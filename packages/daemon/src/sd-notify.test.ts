import { afterEach, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createLogger } from "@stevedore/base";
import { readInto } from "@stevedore/os/fd";
import { listenUnix, SOCK } from "@stevedore/os/socket";
import { notifyReady, notifyStopping } from "./sd-notify.ts";

let dir: string | undefined;
afterEach(async () => {
  if (dir !== undefined) await rm(dir, { recursive: true });
  dir = undefined;
});

test("ready, signs of life and stopping reach the service manager", async () => {
  dir = await mkdtemp(join(tmpdir(), "notify-"));
  const path = join(dir, "socket");
  using socket = listenUnix(path, { kind: SOCK.DGRAM });
  const env = { NOTIFY_SOCKET: path, WATCHDOG_USEC: "40000", WATCHDOG_PID: String(process.pid) };
  const read = (): string => {
    const buffer = new Uint8Array(100);
    const length = readInto(socket.fd, buffer);
    return length > 0 ? Buffer.from(buffer.subarray(0, length)).toString() : "";
  };
  await notifyReady(createLogger(), env);
  expect(read()).toBe("READY=1");
  await Bun.sleep(35);
  expect(read()).toBe("WATCHDOG=1");
  await notifyStopping(createLogger(), env);
  let last = "";
  for (let text = read(); text !== ""; text = read()) last = text;
  expect(last).toBe("STOPPING=1");
});

test("no service manager, or one that is gone: nothing happens", async () => {
  const lines: string[] = [];
  const log = createLogger({ enabled: () => true, write: (level, message) => lines.push(`${level} ${message}`) });
  await notifyReady(log, {});
  await notifyStopping(log, { NOTIFY_SOCKET: "/no/such/socket" });
  expect(lines).toEqual(["debug sd notification", "warning failed to send sd notification"]);
});
