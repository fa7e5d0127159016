import { ptr } from "bun:ffi";
import { failed } from "./errno.ts";
import { cString, i32, libc, pointer, rawSyscall, SYS } from "./ffi.ts";
import { resetInternalSignals } from "./internal-signals.ts";
import { inheritedNofile, RLIMIT, setRlimit } from "./rlimit.ts";
import { SIGNALS } from "./signals.ts";

const lib = libc({
  execve: { args: [pointer, pointer, pointer], returns: i32 },
  signal: { args: [i32, pointer], returns: pointer },
  sigemptyset: { args: [pointer], returns: i32 },
  pthread_sigmask: { args: [i32, pointer, pointer], returns: i32 },
});

/** Lowest descriptor that is not stdio. */
const FIRST_OTHER = 3;
/** CLOSE_RANGE_CLOEXEC, include/uapi/linux/close_range.h. */
const CLOSE_RANGE_CLOEXEC = 4;
/** SIG_SETMASK, asm-generic/signal-defs.h. */
const SIG_SETMASK = 2;
/** Bytes of glibc's sigset_t. */
const SIGSET_SIZE = 128;
/** Signals that Bun ignores, as /proc/self/status shows: a Go program is started with neither. */
const IGNORED_BY_BUN = [SIGNALS["SIGPIPE"] ?? 13, SIGNALS["SIGXFSZ"] ?? 25];
const LAST_DESCRIPTOR = 0xffff_ffff;

/**
 * Replaces this process by another program, keeping its pid and its stdio. What the runtime changed of this process is
 * put back first: the NOFILE limit, ignored signals and the signal mask; all descriptors but stdio close. Does not return.
 *
 * Other threads of the process end with it, so nothing of it may be in the middle of a write that matters.
 *
 * @param path of the program; not searched for.
 * @throws SyscallError when the kernel refuses; by then the changes above are made, so the caller should end.
 */
export function replaceProcess(
  path: string,
  options: { readonly argv: readonly string[]; readonly env: readonly string[] },
): never {
  const file = cString(path);
  const argv = stringVector(options.argv);
  const env = stringVector(options.env);
  setRlimit(RLIMIT.NOFILE, inheritedNofile());
  resetInternalSignals();
  for (const signal of IGNORED_BY_BUN) lib().signal(signal, null);
  const none = new Uint8Array(SIGSET_SIZE);
  lib().sigemptyset(none);
  lib().pthread_sigmask(SIG_SETMASK, none, null);
  rawSyscall(SYS.closeRange, FIRST_OTHER, LAST_DESCRIPTOR, CLOSE_RANGE_CLOEXEC);
  lib().execve(file, argv.pointers, env.pointers);
  throw failed("execve", path);
}

/** A NULL-terminated `char **`. The strings live as long as the result does. */
function stringVector(texts: readonly string[]): { readonly pointers: BigUint64Array; readonly strings: Uint8Array[] } {
  const strings = texts.map((text) => cString(text));
  const pointers = new BigUint64Array(strings.length + 1);
  for (const [at, string] of strings.entries()) pointers[at] = BigInt(ptr(string));
  return { pointers, strings };
}
