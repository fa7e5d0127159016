import { afterEach, beforeEach, expect, test } from "bun:test";
import { lstat, mkdtemp, readdir, readlink, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { socketAddress, socketPath } from "./socket-address.ts";
import { removeLinks, SocketLinks } from "./socket-links.ts";

let dir = "";
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "links-"));
});
afterEach(async () => rm(dir, { recursive: true }));

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
  for (const id of ["first", "second"]) links.add(id);
  await links.settled();
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
  links.add("a");
  links.remove("a");
  links.add("other");
  links.remove("other");
  await links.settled();
  expect(await readdir(dir)).toEqual([basename(pathOf("other"))]);
});

test("what a dead shim left is removed, sockets are not", async () => {
  const links = shared(true);
  links.add("a");
  await links.settled();
  await writeFile(pathOf("first"), "");
  await removeLinks(name("a"));
  await removeLinks(name("first"));
  expect(await readdir(dir)).toEqual([basename(pathOf("first"))]);
});
