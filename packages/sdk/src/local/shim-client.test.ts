import { expect, test } from "bun:test";
import { ShimClient } from "./shim-client.ts";
import { shimDebugSockets, shimSockets } from "./shim-sockets.ts";

const NAME = { id: "c1", address: "", daemonAddress: "/run/containerd/containerd.sock", namespace: "default" };
const COMPUTED = new Bun.CryptoHasher("sha256").update("/run/containerd/containerd.sock/default/c1").digest("hex");

test("a shim is looked for where containerd puts it, then where it was before", () => {
  expect(shimSockets(NAME)).toEqual([`/run/containerd/s/${COMPUTED}`, "@/containerd-shim/default/c1/shim.sock"]);
});

test("an address that is given comes first, and alone without an id", () => {
  expect(shimSockets({ ...NAME, address: "unix:///a/b" })[0]).toBe("/a/b");
  expect(shimSockets({ ...NAME, id: "", address: "/a/b" })).toEqual(["/a/b"]);
});

test("a shim that is not there is unavailable, and every place that was tried is named", async () => {
  const { signal } = new AbortController();
  const lost = ShimClient.connect({ ...NAME, id: "", address: "/nonexistent/s" }, signal);
  await expect(lost).rejects.toMatchObject({
    errorClass: "unavailable",
    message: "fail to connect to container shim with sockets: [/nonexistent/s]",
  });
  await expect(ShimClient.connect({ ...NAME, id: "" }, signal)).rejects.toMatchObject({
    errorClass: "invalid-argument",
  });
});

test("the debug socket is named after the id, beside the address that is given", () => {
  const named = new Bun.CryptoHasher("sha256").update("/run/containerd/containerd.sock/default/c1/debug").digest("hex");
  expect(shimDebugSockets(NAME)).toEqual([`/run/containerd/s/${named}`]);
  expect(shimDebugSockets({ ...NAME, address: "unix:///a/b" })).toEqual([`/a/${named}`, `/run/containerd/s/${named}`]);
});
