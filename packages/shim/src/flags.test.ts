import { expect, test } from "bun:test";
import { parseFlags } from "./flags.ts";

test("parseFlags() reads the daemon's calls as Go's flag package does (F26 F27)", () => {
  const start = [
    "-namespace",
    "default",
    "-address",
    "/c.sock",
    "-publish-binary",
    "/bin/containerd",
    "-id",
    "r1",
    "start",
  ];
  expect(parseFlags(start)).toEqual({
    action: "start",
    namespace: "default",
    id: "r1",
    address: "/c.sock",
    publishBinary: "/bin/containerd",
    socket: "",
    debugSocket: "",
    bundle: "",
    debug: false,
  });
  expect(parseFlags(["--namespace=n", "-debug", "-id=a", "-bundle", "/b", "delete"])).toMatchObject({
    action: "delete",
    namespace: "n",
    id: "a",
    bundle: "/b",
    debug: true,
  });
  expect(parseFlags(["-debug=false"])).toMatchObject({ action: "serve", debug: false });
  expect(parseFlags(["-v"]).action).toBe("version");
  expect(parseFlags(["-info"]).action).toBe("info");
  expect(parseFlags(["start", "-debug"])).toMatchObject({ action: "start", debug: false });
});

test("parseFlags() refuses what Go refuses, in its words", () => {
  expect(() => parseFlags(["-nope"])).toThrow("flag provided but not defined: -nope");
  expect(() => parseFlags(["-id"])).toThrow("flag needs an argument: -id");
  expect(() => parseFlags(["-debug=maybe"])).toThrow('invalid boolean value "maybe" for -debug: parse error');
  expect(() => parseFlags(["-=x"])).toThrow("bad flag syntax: -=x");
});
