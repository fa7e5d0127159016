/**
 * The kernel's door. Parts are imported by their own path, so that a program loads only what it uses:
 * `@stevedore/os/spawn`, `/mount`, `/path`, `/process`, `/socket`, `/fifo`, `/pty`, `/cgroup` and so on. This index
 * carries only what every caller of any part meets: the error type and the descriptor owner.
 */
export { ERRNO, type ErrnoName, isErrno, SyscallError } from "./errno.ts";
export { OwnedFd } from "./fd.ts";
