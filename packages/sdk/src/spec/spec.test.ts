import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { defaultSpec } from "./default-spec.ts";
import { parseMountFlag } from "./mount-flag.ts";
import { mergeEnv, withImageProcess, withNamespacePath, withPrivileged } from "./options.ts";
import { defaultSeccomp } from "./seccomp.ts";
import { resolveUser } from "./user.ts";

const PASSWD = "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1001::/:/bin/sh\n4294967296:x:0:0::/:\n";
const GROUP = "root:x:0:root\nbob:x:1001:\nextra:x:2000:bob,alice\n";
const FILES = { passwd: PASSWD, group: GROUP };

describe("resolveUser()", () => {
  test.each([
    ["", { uid: 0, gid: 0, additionalGids: [0] }],
    ["bob", { uid: 1000, gid: 1001, additionalGids: [1001, 2000] }],
    ["1000", { uid: 1000, gid: 1001, additionalGids: [1001, 2000] }],
    ["5", { uid: 5, gid: 0, additionalGids: [0] }],
    ["bob:extra", { uid: 1000, gid: 2000, additionalGids: [2000] }],
    ["7:8", { uid: 7, gid: 8, additionalGids: [8] }],
  ])("%p", (user, expected) => {
    expect(resolveUser(user, FILES)).toEqual(expected);
  });
  test.each(["nobody", "bob:none"])("%p is not found", (user) => {
    expect(() => resolveUser(user, FILES)).toThrow("not found");
  });
  test("a number out of range is never root and never a name (CVE-2024-40635, CVE-2026-46680)", () => {
    for (const user of ["4294967296", "2147483648", "-1", "+0", "99999999999999999999", "0:4294967296", "1:2:3"]) {
      expect(() => resolveUser(user, FILES)).toThrow("invalid argument");
    }
  });
  test("no text makes uid 0 that did not ask for it", () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 30 }), (user) => {
        const name = user.split(":")[0] ?? "";
        if (name === "" || name === "root" || /^0+$/.test(name)) return;
        try {
          expect(resolveUser(user, FILES).uid).not.toBe(0);
        } catch (error) {
          expect(String(error)).toMatch(/not found|invalid argument/);
        }
      }),
    );
  });
});

test("mergeEnv() replaces in place, appends and removes", () => {
  expect(mergeEnv(["A=1", "B=2"], ["B=3", "C=4", "A"])).toEqual(["B=3", "C=4"]);
});

describe("defaultSpec()", () => {
  test("has the cgroup path of its container", () => {
    expect(defaultSpec({ id: "c", namespace: "n" }).linux?.cgroupsPath).toBe("/n/c");
  });
  test("is a fresh object each time (CVE-2021-21334)", () => {
    const one = defaultSpec({ id: "a", namespace: "n" });
    withPrivileged(one);
    one.linux?.maskedPaths?.push("x");
    expect(defaultSpec({ id: "b", namespace: "n" }).process?.capabilities?.bounding).not.toContain("CAP_SYS_ADMIN");
  });
  test("gives no inheritable or ambient capabilities (CVE-2022-24769)", () => {
    expect(defaultSpec({ id: "a", namespace: "n" }).process?.capabilities?.inheritable).toBeUndefined();
  });
});

test("withImageProcess() puts arguments behind the entry point", () => {
  const image = { env: [], entrypoint: ["/e"], cmd: ["c"], workingDir: "" };
  const spec = withImageProcess(defaultSpec({ id: "a", namespace: "n" }), image, []);
  expect(spec.process?.args).toEqual(["/e", "c"]);
  expect(withImageProcess(spec, image, ["x", "y"]).process?.args).toEqual(["/e", "x", "y"]);
  expect(() => withImageProcess(spec, { ...image, entrypoint: [], cmd: [] }, [])).toThrow("no arguments specified");
});

test("withNamespacePath() replaces the namespace of its type", () => {
  const spec = withNamespacePath(defaultSpec({ id: "a", namespace: "n" }), { type: "pid", path: "/proc/1/ns/pid" });
  expect(spec.linux?.namespaces?.filter((namespace) => namespace.type === "pid")).toEqual([
    { type: "pid", path: "/proc/1/ns/pid" },
  ]);
});

describe("parseMountFlag()", () => {
  test("reads all keys", () => {
    expect(parseMountFlag("type=bind,src=/tmp,dst=/host,options=rbind:ro")).toEqual({
      type: "bind",
      source: "/tmp",
      destination: "/host",
      options: ["rbind", "ro"],
    });
  });
  test("keeps quoted commas", () => {
    expect(parseMountFlag('type=bind,"src=/a,b",dst=/c').source).toBe("/a,b");
  });
  test("refuses what it does not know", () => {
    expect(() => parseMountFlag("type=bind,nope=1")).toThrow('mount option "nope" not supported');
    expect(() => parseMountFlag("bind")).toThrow("expected key=val");
  });
});

describe("defaultSeccomp()", () => {
  test("blocks clone3 with ENOSYS unless the container may make namespaces", () => {
    const spec = defaultSpec({ id: "a", namespace: "n" });
    expect(defaultSeccomp(spec, "x64").syscalls?.at(-1)).toEqual({
      names: ["clone3"],
      action: "SCMP_ACT_ERRNO",
      errnoRet: 38,
    });
    expect(defaultSeccomp(withPrivileged(spec), "x64").syscalls?.flatMap((rule) => rule.names)).toContain("mount");
  });
});
