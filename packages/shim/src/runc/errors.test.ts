import { expect, test } from "bun:test";
import { type ErrorClass, errorClassOf } from "@stevedore/base/errors";
import { isMissingContainer, killError, lastErrorOf, RuntimeError, runtimeError } from "./errors.ts";

function failed(output: string, logged = "", logTrouble = ""): RuntimeError {
  return new RuntimeError({ command: "runc", how: "exit status 1", output, logged, logTrouble });
}

test("lastErrorOf() finds the last error of a log, whatever else is in it", () => {
  const log = [
    '{"level":"warning","msg":"cannot toggle freezer","time":"2026-11-21T03:51:22Z"}',
    '{"level":"error","msg":"first","time":"2026-11-21T03:51:22Z"}',
    '{"level":"error","msg":"runc create failed: no such file ","time":"2026-11-21T03:51:22Z"}',
    '{"level":"info","msg":"later"}',
    '{"level":"err',
  ].join("\n");
  expect(lastErrorOf(log)).toBe("runc create failed: no such file");
  expect(lastErrorOf("")).toBe("");
});

test("runtimeError() says what was done and what the runtime said, as the peer does", () => {
  const message = (error: unknown): string => (error instanceof Error ? error.message : "");
  expect(message(runtimeError("OCI runtime create failed", failed("out", "why")))).toBe(
    "OCI runtime create failed: why",
  );
  expect(message(runtimeError("OCI runtime start failed", failed("out")))).toBe(
    "OCI runtime start failed: runc did not terminate successfully: exit status 1: out",
  );
  expect(message(runtimeError("OCI runtime start failed", failed("out", "", "EIO")))).toBe(
    "OCI runtime start failed: unable to retrieve OCI runtime error (EIO): runc did not terminate successfully: exit status 1: out",
  );
});

test("killError() tells an ended process and a missing container from the rest, by what runtimes print", () => {
  const cases: readonly (readonly [output: string, message: string, errorClass: ErrorClass])[] = [
    ["container not running", "process already finished: not found", "not-found"],
    ["os: process already finished", "process already finished: not found", "not-found"],
    ["No such process", "process already finished: not found", "not-found"],
    ["container does not exist", "no such container: not found", "not-found"],
    [
      "unable to signal",
      "unknown error after kill: runc did not terminate successfully: exit status 1: unable to signal",
      "unknown",
    ],
  ];
  for (const [output, message, errorClass] of cases) {
    const error = killError(failed(output));
    expect(error.message).toBe(message);
    expect(errorClassOf(error)).toBe(errorClass);
  }
  expect(isMissingContainer(failed("", "container does not exist"))).toBe(true);
  expect(isMissingContainer(failed("busy"))).toBe(false);
});
