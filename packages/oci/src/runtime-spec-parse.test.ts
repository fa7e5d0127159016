import { describe, expect, test } from "bun:test";
import { encodeText } from "@stevedore/base";
import * as fc from "fast-check";
import { parseLinuxResources, parseProcess, parseSpec } from "./runtime-spec-parse.ts";

const bytes = (text: string): Uint8Array => encodeText(text);

describe("parseSpec()", () => {
  test("reads what runc's own `spec` writes, and keeps unknown fields", () => {
    const spec = parseSpec(
      bytes(
        `{"ociVersion":"1.0.2-dev","process":{"terminal":true,"user":{"uid":0,"gid":0},"args":["sh"],"env":null,"cwd":"/",
        "capabilities":{"bounding":["CAP_KILL"]},"rlimits":[{"type":"RLIMIT_NOFILE","hard":18446744073709551615,"soft":1024}]},
        "root":{"path":"rootfs","readonly":true},"mounts":[{"destination":"/proc","type":"proc","source":"proc"}],
        "linux":{"resources":{"devices":[{"allow":false,"access":"rwm"}],"memory":{"limit":9223372036854771712}},
        "namespaces":[{"type":"pid"}],"timeOffsets":{}},"vm":{"x":1}}`,
      ),
    );
    expect(spec.process?.rlimits?.[0]?.hard).toBe(18446744073709551615n);
    expect(spec.process?.env).toBeUndefined();
    expect(spec.linux?.resources?.memory?.limit).toBe(9223372036854771712n);
    expect(Reflect.get(spec, "vm")).toEqual({ x: 1 });
  });

  const refused: readonly [text: string, message: string][] = [
    ["[]", "runtime spec: found a list, want an object"],
    ["{}", "runtime spec: ociVersion: found nothing, want a string"],
    ['{"ociVersion":"1","process":{"user":{"uid":0,"gid":0},"cwd":1}}', "process.cwd: found 1, want a string"],
    ['{"ociVersion":"1","process":{"cwd":"/"}}', "process.user: found nothing, want an object"],
    ['{"ociVersion":"1","mounts":[{}]}', "mounts[0].destination: found nothing"],
    ['{"ociVersion":"1","linux":{"sysctl":{"a":1}}}', "linux.sysctl.a: found 1, want a string"],
    ['{"ociVersion":"1","process":{"user":{"uid":1.5,"gid":0},"cwd":"/"}}', "process.user.uid: found 1.5"],
  ];
  for (const [text, message] of refused) {
    test(`refuses ${text}`, () => expect(() => parseSpec(bytes(text))).toThrow(message));
  }

  test("any JSON is read or refused with a class", () => {
    fc.assert(
      fc.property(fc.json(), (text) => {
        for (const parse of [parseSpec, parseProcess, parseLinuxResources]) {
          try {
            parse(bytes(text));
          } catch (error) {
            expect(error).toMatchObject({ errorClass: "invalid-argument" });
          }
        }
      }),
      { numRuns: 300 },
    );
  });
});

test("parseProcess() and parseLinuxResources() read their parts", () => {
  expect(parseProcess(bytes('{"user":{"uid":1,"gid":2,"additionalGids":[3]},"cwd":"/","args":["a"]}')).user).toEqual({
    uid: 1,
    gid: 2,
    additionalGids: [3],
  });
  expect(parseLinuxResources(bytes('{"pids":{"limit":-1},"unified":{"memory.max":"1"}}')).pids?.limit).toBe(-1);
});
