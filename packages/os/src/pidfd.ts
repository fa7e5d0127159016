import { check, ERRNO, resultOrErrno, SyscallError } from "./errno.ts";
import { rawSyscall, SYS } from "./ffi.ts";

/**
 * A descriptor that names a process for good, whatever becomes of its pid. The caller owns it. Close-on-exec.
 *
 * @throws not-found (ESRCH) when there is no such process, or it has been reaped.
 */
export function openPidfd(pid: number): number {
  return check(rawSyscall(SYS.pidfdOpen, pid, 0), "pidfd_open", `process ${pid}`);
}

/** Sends a signal through a pidfd. Returns false when the process has been reaped. */
export function signalPidfd(pidfd: number, signal: number): boolean {
  const result = resultOrErrno(rawSyscall(SYS.pidfdSendSignal, pidfd, signal, 0, 0));
  if (result === -ERRNO.ESRCH) return false;
  if (result < 0) throw new SyscallError({ syscall: "pidfd_send_signal", errno: -result });
  return true;
}

/** A copy of descriptor `fd` of the process behind `pidfd`. The caller owns it. Needs ptrace rights over it. */
export function takePidfdDescriptor(pidfd: number, fd: number): number {
  return check(rawSyscall(SYS.pidfdGetfd, pidfd, fd, 0), "pidfd_getfd", `descriptor ${fd}`);
}
