import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, lstatSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { isErrorClass } from "@stevedore/base/errors";
import { O, readInto } from "./fd.ts";
import { createNetns, isNetns, namespaceIdentity, pinNetns, removeNetns } from "./netns.ts";
import { runOneShot } from "./one-shot.ts";
import { notifyReady, notifyReloading, notifyService, notifyStopping, watchdogInterval } from "./sdnotify.ts";
import { awaitConnection, awaitDescriptors, connectUnix, listenUnix, SOCK } from "./socket.ts";
import { runCommand, spawnChild } from "./spawn.ts";

let dir = "";
beforeEach(() => {
  dir = mkdtempSync("/tmp/os-netns-");
});
afterEach(() => {
  removeNetns(`${dir}/ns/a`);
  removeNetns(`${dir}/ns/b`);
  rmSync(dir, { recursive: true });
});

const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);

test("a namespace is made, pinned, told apart and removed", async () => {
  const path = `${dir}/ns/a`;
  await createNetns(path);
  expect(isNetns(path)).toBe(true);
  expect(namespaceIdentity(path)).not.toBe(namespaceIdentity("/proc/self/ns/net"));
  const links = await runCommand(["nsenter", `--net=${path}`, "cat", "/proc/net/dev"]);
  expect(text(links.stdout)).toMatch(/^\s*lo:/m);
  expect(text(links.stdout)).not.toMatch(/^\s*eth0:/m);
  await expect(createNetns(path)).rejects.toThrow("file exists");
  await using child = spawnChild(["nsenter", `--net=${path}`, "sleep", "10"]);
  await Bun.sleep(50);
  pinNetns(child.pid, `${dir}/ns/b`);
  expect(namespaceIdentity(`${dir}/ns/b`)).toBe(namespaceIdentity(path));
  removeNetns(path);
  expect(existsSync(path)).toBe(false);
  expect(isNetns(path)).toBe(false);
  removeNetns(path);
  expect(() => pinNetns(2 ** 22 + 1, `${dir}/ns/a`)).toThrow("no such file");
  expect(existsSync(`${dir}/ns/a`)).toBe(false);
});

test("a helper works in another namespace and hands its descriptor back", async () => {
  await createNetns(`${dir}/ns/a`);
  using dev = await runOneShot(
    { op: "open", path: "/proc/self/net/dev", flags: O.RDONLY },
    { namespaces: { net: `${dir}/ns/a` } },
  );
  const buffer = new Uint8Array(4096);
  const seen = text(buffer.subarray(0, readInto(dev.fd, buffer)));
  expect(seen).toMatch(/lo:/);
  expect(seen).not.toMatch(/eth0:/);
});

test("cwd and umask are the helper's own", async () => {
  const before = process.umask();
  using file = await runOneShot(
    { op: "open", path: "f", flags: O.RDWR | O.CREAT, mode: 0o666 },
    { cwd: dir, umask: 0o027 },
  );
  expect(file.fd).toBeGreaterThan(2);
  expect(lstatSync(`${dir}/f`).mode & 0o777).toBe(0o640);
  expect(process.umask()).toBe(before);
});

test("sockets and mounts come by descriptor, failures as they were", async () => {
  using listener = await runOneShot({ op: "listen-unix", path: "s", mode: 0o660 }, { cwd: dir });
  expect(lstatSync(`${dir}/s`).mode & 0o777).toBe(0o660);
  using client = connectUnix(`${dir}/s`);
  using server = await awaitConnection(listener.fd);
  expect([client.fd, server.fd].every((fd) => fd > 2)).toBe(true);
  writeFileSync(`${dir}/lower`, "");
  const steps = [{ type: "tmpfs", source: "tmpfs", options: ["size=1m"] }];
  using mounted = await runOneShot({ op: "mount", steps, target: "." }, { cwd: dir, newMountNamespace: true });
  expect(existsSync(`${dir}/lower`)).toBe(true);
  writeFileSync(`/proc/self/fd/${mounted.fd}/inside`, "x");
  expect(readFileSync(`/proc/self/fd/${mounted.fd}/inside`, "utf8")).toBe("x");
  expect(existsSync(`${dir}/inside`)).toBe(false);
  try {
    await runOneShot({ op: "open", path: `${dir}/missing`, flags: O.RDONLY });
    expect.unreachable();
  } catch (error) {
    expect(isErrorClass(error, "not-found")).toBe(true);
    expect(String(error)).toContain(`open ${dir}/missing: no such file or directory`);
  }
  await expect(runOneShot({ op: "open", path: "/", flags: 0 }, { namespaces: { net: `${dir}/nope` } })).rejects.toThrow(
    /no answer: .*nope/,
  );
  await Bun.sleep(200);
});

test("a TCP connection made inside is usable outside", async () => {
  const server = Bun.listen({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      open(socket) {
        socket.write("hello");
      },
      data() {},
    },
  });
  using fd = await runOneShot({ op: "connect-tcp", host: "127.0.0.1", port: server.port });
  const got = await awaitDescriptors(fd.fd);
  expect(text(got.bytes)).toBe("hello");
  server.stop(true);
});

test("the service manager is told, by path and by abstract name", async () => {
  for (const socket of [`${dir}/notify`, "@os-notify-test"]) {
    using listener = listenUnix(socket, { kind: SOCK.DGRAM });
    expect(notifyReady({ socket })).toBe(true);
    expect(text((await awaitDescriptors(listener.fd)).bytes)).toBe("READY=1\n");
    expect(notifyStopping({ socket })).toBe(true);
    expect(text((await awaitDescriptors(listener.fd)).bytes)).toBe("STOPPING=1\n");
    expect(notifyReloading({ socket })).toBe(true);
    expect(text((await awaitDescriptors(listener.fd)).bytes)).toMatch(/^RELOADING=1\nMONOTONIC_USEC=\d+\n$/);
    notifyService({ STATUS: "two\nlines" }, { socket });
    expect(text((await awaitDescriptors(listener.fd)).bytes)).toBe("STATUS=two lines\n");
  }
  expect(notifyService({ READY: "1" }, { socket: "" })).toEqual({ sent: false });
  expect(notifyService({ READY: "1" }, { socket: `${dir}/gone` }).reason).toContain("no such file");
  expect(notifyService({ READY: "1" }, { socket: "vsock:2:1" }).reason).toContain("no unix socket");
  expect(watchdogInterval({ WATCHDOG_USEC: "3000000", WATCHDOG_PID: String(process.pid) })).toBe(3_000);
  expect(watchdogInterval({ WATCHDOG_USEC: "3000000", WATCHDOG_PID: "1" })).toBeUndefined();
  expect(watchdogInterval({})).toBeUndefined();
});
