import { expect, test } from "bun:test";
import { createLogger } from "@stevedore/base";
import { ShimBinary } from "./shim-binary.ts";
import { TaskEntry } from "./task-entry.ts";

function entryOf(id: string): TaskEntry {
  const bundle = { namespace: "test", id, path: "/nowhere" };
  const settings = { grpcAddress: "", ttrpcAddress: "", publishBinary: "", version: "", socketDir: "", debug: false };
  const binary = new ShimBinary("", bundle, { ...settings, env: {}, log: createLogger() });
  const io = { stdin: "", stdout: "", stderr: "", terminal: false };
  return new TaskEntry(bundle, { binary, shim: { kind: "loading", settled: Promise.resolve() }, io, sandboxed: false });
}

function end(id: string, pid: number): { id: string; pid: number; exitStatus: number; exitedAt: Date } {
  return { id, pid, exitStatus: 0, exitedAt: new Date(0) };
}

test("the end of a deleted exec is not kept, whether it is told before the delete or after it", () => {
  const entry = entryOf("c");
  entry.setExit(end("before", 7));
  entry.forgetExec(end("before", 7));
  entry.forgetExec(end("after", 8));
  entry.setExit(end("after", 8));
  expect([...entry.exits.keys()]).toEqual([]);
});

test("an exec of the same name begins anew, and one that never ran is forgotten at once", () => {
  const entry = entryOf("c");
  entry.forgetExec(end("e", 8));
  entry.setExit(end("e", 9));
  entry.setExit(end("e", 8));
  expect(entry.exits.get("e")?.pid).toBe(9);
  entry.forgetExec(end("failed", 0));
  entry.setExit(end("failed", 0));
  expect([...entry.exits.keys()]).toEqual(["e", "failed"]);
});
