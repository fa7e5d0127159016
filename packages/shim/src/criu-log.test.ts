import { describe, expect, test } from "bun:test";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { classified, errorClassOf, messageOf } from "@stevedore/base/errors";
import { criuReason, errorsIn, withCriuReason } from "./criu-log.ts";

// As criu 3.17.1 writes them.
const LOG = `(00.000000) Version: 3.17.1 (gitid 0)
(00.001657) Error (criu/util.c:642): exited, status=1
(00.022312) Warn  (criu/kerndat.c:1153): $XDG_RUNTIME_DIR not set. Cannot find location for kerndat file
(00.023592) Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds
(00.023594) Error (criu/vdso.c:613): vdso: Failed to fill self vdso symtable
`;

describe("criu's log", () => {
  test("its errors are told, the cause first, without the bare ends of its children", () => {
    expect(errorsIn(LOG)).toBe(
      "Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds; " +
        "Error (criu/vdso.c:613): vdso: Failed to fill self vdso symtable",
    );
    expect(errorsIn("(00.1) Error (criu/util.c:642): exited, status=1\n")).toBe(
      "Error (criu/util.c:642): exited, status=1",
    );
    expect(errorsIn("(00.1) Dumping finished successfully\n")).toBe("");
  });

  test("a log without end is told in part", async () => {
    const folder = await mkdtemp(join(tmpdir(), "stv-criu-"));
    try {
      const path = join(folder, "dump.log");
      await writeFile(path, `${"x".repeat(1 << 20)}\n${`(1) Error (a.c:1): ${"y".repeat(5_000)}\n`.repeat(50)}`);
      const reason = await criuReason(path);
      expect(reason.length).toBeLessThan(1_300);
      expect(reason).toStartWith("Error (a.c:1): yyy");
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  test("without a log the error stays as it is; with one its class does", async () => {
    const error = classified("unknown", "criu failed");
    expect(await withCriuReason(error, "/nonexistent/dump.log")).toBe(error);
    const folder = await mkdtemp(join(tmpdir(), "stv-criu-"));
    try {
      await writeFile(join(folder, "restore.log"), LOG);
      const told = await withCriuReason(error, join(folder, "restore.log"));
      expect(errorClassOf(told)).toBe("unknown");
      expect(messageOf(told)).toStartWith("criu failed: criu: Error (criu/vdso.c:381)");
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});
