import { afterEach, beforeEach, expect, test } from "bun:test";
import { lstat, mkdtemp, readdir, readlink, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { socketAddress, socketPath } from "./socket-address.ts";
import { removeLinks, SocketLinks } from "./socket-links.ts";

let dir = "";
let bundle = "";
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "links-"));
  bundle = await mkdtemp(join(tmpdir(), "links-bundle-"));
});
afterEach(async () => {
  for (const folder of [dir, bundle]) await rm(folder, { recursive: true });
});

const name = (id: string) => ({ dir, daemonAddress: "/c.sock", namespace: "ns", id });
const pathOf = (id: string, debug = false): string => socketPath(socketAddress({ ...name(id), debug }));
const shared = (debug = false): SocketLinks =>
  new SocketLinks({
    socket: pathOf("first"),
    debugSocket: debug ? pathOf("first", true) : "",
    daemonAddress: "/c.sock",
    namespace: "ns",
  });

test("containers that share a shim are found by their ids while they last", async () => {
  await writeFile(pathOf("first"), "");
  await symlink("/gone", pathOf("second"));
  const links = shared(true);
  for (const id of ["first", "second"]) links.add(id, bundle);
  await links.settled();
  expect(await readlink(join(bundle, "s"))).toBe(dir);
  expect(await readlink(pathOf("second"))).toBe(pathOf("first"));
  expect(await readlink(pathOf("second", true))).toBe(pathOf("first", true));
  expect((await lstat(pathOf("first"))).isFile()).toBe(true);
  for (const id of ["first", "second"]) links.remove(id);
  await links.settled();
  expect(await readdir(dir)).toEqual([basename(pathOf("first"))]);
});

test("changes of one container keep their order, and another shim's socket is not touched", async () => {
  await writeFile(pathOf("other"), "");
  const links = shared();
  links.add("a", bundle);
  links.remove("a");
  links.add("other", bundle);
  links.remove("other");
  await links.settled();
  expect(await readdir(dir)).toEqual([basename(pathOf("other"))]);
});

test("what a dead shim left is removed, sockets are not", async () => {
  const links = shared(true);
  links.add("a", bundle);
  await links.settled();
  await writeFile(pathOf("first"), "");
  await removeLinks(name("a"));
  await removeLinks(name("first"));
  expect(await readdir(dir)).toEqual([basename(pathOf("first"))]);
});
