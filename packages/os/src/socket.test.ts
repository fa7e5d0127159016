import { afterEach, beforeEach, expect, test } from "bun:test";
import { lstatSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { OwnedFd } from "./fd.ts";
import { sendSignal } from "./process.ts";
import {
  acceptUnix,
  awaitConnection,
  awaitDescriptors,
  connectUnix,
  isListening,
  listenUnix,
  MAX_DESCRIPTORS,
  peerCredentials,
  peerPidfd,
  receiveDescriptors,
  removeStaleSocket,
  SOCK,
  sendDescriptors,
  socketPair,
} from "./socket.ts";

let dir = "";
beforeEach(() => {
  dir = mkdtempSync("/tmp/os-socket-");
});
afterEach(() => rmSync(dir, { recursive: true }));

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const text = (value: Uint8Array): string => new TextDecoder().decode(value);

test("descriptors travel with their message and are ours at the other end", async () => {
  const [a, b] = socketPair();
  using _a = a;
  using _b = b;
  expect(receiveDescriptors(b.fd)).toBeUndefined();
  writeFileSync(`${dir}/f`, "content");
  using file = new OwnedFd(openSync(`${dir}/f`, "r"));
  expect(sendDescriptors(a.fd, bytes("hello"), [file.fd, file.fd])).toBe(5);
  const message = await awaitDescriptors(b.fd);
  expect(text(message.bytes)).toBe("hello");
  expect(message.fds.length).toBe(2);
  expect(message.fds.map((fd) => readFileSync(`/proc/self/fd/${fd.fd}`, "utf8"))).toEqual(["content", "content"]);
  for (const fd of message.fds) {
    expect(readFileSync(`/proc/self/fdinfo/${fd.fd}`, "utf8")).toMatch(/flags:\s+0?2\d{6}/); // close-on-exec
    fd.close();
  }
  a.close();
  expect((await awaitDescriptors(b.fd)).bytes.byteLength).toBe(0);
});

test("the largest message goes through, one more is refused", () => {
  const [a, b] = socketPair(SOCK.SEQPACKET);
  using _a = a;
  using _b = b;
  const many = Array.from({ length: MAX_DESCRIPTORS }, () => 0);
  sendDescriptors(a.fd, bytes("x"), many);
  const got = receiveDescriptors(b.fd);
  expect(got?.fds.length).toBe(MAX_DESCRIPTORS);
  for (const fd of got?.fds ?? []) fd.close();
  expect(() => sendDescriptors(a.fd, bytes("x"), [...many, 0])).toThrow("at most 253");
  expect(() => sendDescriptors(a.fd, bytes(""), [0])).toThrow("needs a byte");
});

test("a full socket says so, a closed one is unavailable", () => {
  const [a, b] = socketPair();
  using _a = a;
  const chunk = new Uint8Array(65_536);
  let n: number | undefined = 0;
  for (let i = 0; i < 100 && n !== undefined; i++) n = sendDescriptors(a.fd, chunk, []);
  expect(n).toBeUndefined();
  b.close();
  expect(() => sendDescriptors(a.fd, chunk, [])).toThrow(/broken pipe|reset by peer/);
});

test("a listener waits on the loop, knows its peer and has its mode", async () => {
  const path = `${dir}/s`;
  using listener = listenUnix(path);
  expect(lstatSync(path).mode & 0o7777).toBe(0o600);
  expect(acceptUnix(listener.fd)).toBeUndefined();
  const pending = awaitConnection(listener.fd);
  await Bun.sleep(10);
  using client = connectUnix(path);
  using server = await pending;
  expect(peerCredentials(server.fd)).toEqual({ pid: process.pid, uid: 0, gid: 0 });
  const pidfd = peerPidfd(server.fd);
  if (pidfd !== undefined) new OwnedFd(pidfd).close();
  sendDescriptors(client.fd, bytes("hi"), []);
  expect(text((await awaitDescriptors(server.fd)).bytes)).toBe("hi");
  expect(sendSignal(process.pid, 0)).toBe(true);
});

test("waiting ends with the signal's reason", async () => {
  using listener = listenUnix(`${dir}/s`);
  const controller = new AbortController();
  setTimeout(() => controller.abort(new Error("enough")), 10);
  await expect(awaitConnection(listener.fd, controller.signal)).rejects.toThrow("enough");
  await Bun.sleep(30);
});

test("a path longer than a socket address works, and Bun's own sockets tell their peer", async () => {
  const deep = `${dir}/${"x".repeat(90)}/${"y".repeat(60)}`;
  mkdirSync(deep, { recursive: true });
  using listener = listenUnix(`${deep}/sock`, { mode: 0o660 });
  expect(readdirSync(deep)).toEqual(["sock"]);
  using client = connectUnix(`${deep}/sock`);
  using server = await awaitConnection(listener.fd);
  expect(peerCredentials(server.fd).pid).toBe(process.pid);
  expect(client.fd).toBeGreaterThan(2);
  expect(() => listenUnix(`@${"z".repeat(108)}`)).toThrow("longer than");
  using abstract = listenUnix("@os-socket-test");
  using other = connectUnix("@os-socket-test");
  expect(abstract.fd).not.toBe(other.fd);
});

test("stale sockets go, live ones and other files stay", () => {
  const path = `${dir}/s`;
  const listener = listenUnix(path);
  expect(isListening(path)).toBe(true);
  expect(() => removeStaleSocket(path)).toThrow("something listens");
  listener.close();
  expect(isListening(path)).toBe(false);
  removeStaleSocket(path);
  removeStaleSocket(path);
  writeFileSync(path, "");
  expect(() => removeStaleSocket(path)).toThrow("no socket");
});
