// Signals 32 and 33 are glibc's own; its posix_spawn, which make uses, leaves them ignored in the child, and so in everything below
// make. A container's signal state would then differ with how the tests were started. glibc's sigaction refuses these two.
import { dlopen, FFIType, ptr } from "bun:ffi";

/** rt_sigaction's number by architecture; from the kernel's system call tables. */
const RT_SIGACTION: Readonly<Record<string, number>> = { x64: 13, arm64: 134 };
/** Bytes of the kernel's struct sigaction (handler, flags, restorer, mask); all zero means the default action. */
const ACTION_BYTES = 32;
/** Bytes of the kernel's signal set. */
const SET_BYTES = 8;

/** Gives both signals their default action, for this process and what it starts. Does nothing on other architectures. */
export function resetInternalSignals(): void {
  const number = RT_SIGACTION[process.arch];
  if (number === undefined) return;
  const { i32, ptr: pointer, u64 } = FFIType;
  const libc = dlopen("libc.so.6", { syscall: { args: [u64, i32, pointer, pointer, u64], returns: i32 } });
  const action = new Uint8Array(ACTION_BYTES);
  for (const signal of [32, 33]) libc.symbols.syscall(number, signal, ptr(action), null, SET_BYTES);
  libc.close();
}
