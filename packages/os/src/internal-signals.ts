import { rawSyscall } from "./ffi.ts";

/** glibc's own signals, SIGCANCEL and SIGSETXID (nptl's internal-signals.h): sigaction(3) refuses them. */
const INTERNAL_SIGNALS = [32, 33];
/** rt_sigaction(2) is one of the calls whose number differs: x86_64 13, elsewhere asm-generic's 134. */
const RT_SIGACTION = process.arch === "x64" ? 13 : 134;
/** sizeof(struct kernel_sigaction): handler, flags, restorer, mask. */
const SIGACTION_SIZE = 32;
/** Bytes of the kernel's signal set. */
const SIGSET_SIZE = 8;
const SIG_IGN = 1n;

let done = false;

/**
 * Puts glibc's internal signals back to their default when this process was started with them ignored: glibc's
 * posix_spawn leaves them so in what it starts (make and some shells use it), and an ignored signal stays ignored in
 * every program after. glibc installs its own handlers when it needs them. Does not block; done once.
 */
export function resetInternalSignals(): void {
  if (done) return;
  done = true;
  const now = new BigUint64Array(SIGACTION_SIZE / 8);
  const standard = new BigUint64Array(SIGACTION_SIZE / 8);
  for (const signal of INTERNAL_SIGNALS) {
    if (rawSyscall(RT_SIGACTION, signal, null, now, SIGSET_SIZE) < 0 || now[0] !== SIG_IGN) continue;
    rawSyscall(RT_SIGACTION, signal, standard, null, SIGSET_SIZE);
  }
}
