import { expect, test } from "bun:test";
import { openSync } from "node:fs";
import { check, ERRNO, errnoText, failed, fromNodeError, isErrno, resultOrErrno, SyscallError } from "./errno.ts";
import { cString, i32, libc, pointer, rawSyscall, SYS } from "./ffi.ts";

const open = libc({ openat: { args: [i32, pointer, i32, i32], returns: i32 }, close: { args: [i32], returns: i32 } });

test("check() throws an error with errno, class and target", () => {
  const path = "/nonexistent/file";
  try {
    check(open().openat(-100, cString(path), 0, 0), "open", path);
    expect.unreachable();
  } catch (error) {
    expect(error).toBeInstanceOf(SyscallError);
    if (!(error instanceof SyscallError)) return;
    expect(error.message).toBe("open /nonexistent/file: no such file or directory");
    expect(error.errorClass).toBe("not-found");
    expect(error.errno).toBe(ERRNO.ENOENT);
    expect(isErrno(error, "ENOENT")).toBe(true);
    expect(isErrno(error, "EEXIST")).toBe(false);
  }
});

test("an errno outside the table still names its number", () => {
  expect(errnoText(4242)).toBe("errno 4242");
  const error = new SyscallError({ syscall: "x", errno: 4242 });
  expect(error.errorClass).toBe("unknown");
});

test("errors of node:fs become SyscallErrors", () => {
  try {
    openSync("/nonexistent/file", "r");
    expect.unreachable();
  } catch (error) {
    const converted = fromNodeError(error);
    expect(converted).toBeInstanceOf(SyscallError);
    expect((converted as SyscallError).errorClass).toBe("not-found");
    expect(isErrno(error, "ENOENT")).toBe(true);
  }
});

// The claim of ffi.ts: nothing the engine does between the call and the read changes errno. Garbage is made between
// calls, so that collections, tier-ups and allocations fall everywhere.
test("errno survives collections and compilation", () => {
  const missing = cString("/nonexistent/file");
  let garbage: unknown[] = [];
  let wrong = 0;
  for (let round = 0; round < 60_000; round++) {
    if (resultOrErrno(open().openat(-100, missing, 0, 0)) !== -ERRNO.ENOENT) wrong++;
    if (resultOrErrno(open().close(-1)) !== -ERRNO.EBADF) wrong++;
    if (resultOrErrno(rawSyscall(SYS.pidfdOpen, -1, 0)) !== -ERRNO.EINVAL) wrong++;
    garbage.push(
      Array.from({ length: 16 }, () => round),
      { round },
      `${round}`,
    );
    if (garbage.length > 30_000) garbage = [];
    if (round % 20_000 === 0) Bun.gc(true);
  }
  expect(wrong).toBe(0);
});

test("failed() names the call without a target", () => {
  open().close(-1);
  expect(failed("close").message).toBe("close: bad file descriptor");
});
