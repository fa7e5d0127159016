import { check, ERRNO, resultOrErrno, SyscallError } from "./errno.ts";
import { closeQuietly, O, OwnedFd } from "./fd.ts";
import { cString, i32, libc, pointer, u64 } from "./ffi.ts";

/** Loop devices: a file as a block device, for file systems kept in images. */

const lib = libc({
  open: { args: [pointer, i32, i32], returns: i32 },
  ioctl: { args: [i32, u64, pointer], returns: i32 },
});

/** From include/uapi/linux/loop.h. */
const LOOP = { CONFIGURE: 0x4c0a, CTL_GET_FREE: 0x4c82 } as const;
const LO_FLAGS = { READ_ONLY: 1, AUTOCLEAR: 4, DIRECT_IO: 16 } as const;
const LOOP_CONFIG_SIZE = 304;
const INFO_AT = 8;
const FLAGS_AT = INFO_AT + 52;
const NAME_AT = INFO_AT + 56;
const NAME_SIZE = 64;

export interface LoopOptions {
  readonly readOnly?: boolean;
  readonly directIo?: boolean;
}

export interface LoopDevice {
  /** `/dev/loop<n>`. */
  readonly path: string;
  /** Keeps the device; once it is closed the device goes with its last user (autoclear). The caller owns it. */
  readonly fd: OwnedFd;
}

/** Others may take the free device we were told of; beyond this something is wrong. */
const TRIES = 100;

/**
 * Attaches `file` to a free loop device that detaches by itself after its last use.
 *
 * @throws not-found for the file; failed-precondition (ENODEV, ENXIO) where the kernel has no loop devices.
 */
export function attachLoop(file: string, options: LoopOptions = {}): LoopDevice {
  const access = (options.readOnly === true ? O.RDONLY : O.RDWR) | O.CLOEXEC;
  const backing = check(lib().open(cString(file), access, 0), "open", file);
  try {
    const control = check(lib().open(cString("/dev/loop-control"), O.RDWR | O.CLOEXEC, 0), "open", "/dev/loop-control");
    try {
      for (let tries = 0; ; tries++) {
        const number = check(lib().ioctl(control, LOOP.CTL_GET_FREE, null), "ioctl", "LOOP_CTL_GET_FREE");
        const path = `/dev/loop${number}`;
        const fd = check(lib().open(cString(path), access, 0), "open", path);
        const result = configure(fd, backing, file, options);
        if (result >= 0) return { path, fd: new OwnedFd(fd) };
        closeQuietly(fd);
        if (result !== -ERRNO.EBUSY || tries >= TRIES) {
          throw new SyscallError({ syscall: "attach loop device to", errno: -result, target: file });
        }
      }
    } finally {
      closeQuietly(control);
    }
  } finally {
    closeQuietly(backing);
  }
}

function configure(fd: number, backing: number, file: string, options: LoopOptions): number {
  const config = new DataView(new ArrayBuffer(LOOP_CONFIG_SIZE));
  config.setUint32(0, backing, true);
  const flags =
    LO_FLAGS.AUTOCLEAR |
    (options.readOnly === true ? LO_FLAGS.READ_ONLY : 0) |
    (options.directIo === true ? LO_FLAGS.DIRECT_IO : 0);
  config.setUint32(FLAGS_AT, flags, true);
  const bytes = new Uint8Array(config.buffer);
  bytes.set(new TextEncoder().encode(file).subarray(0, NAME_SIZE - 1), NAME_AT);
  return resultOrErrno(lib().ioctl(fd, LOOP.CONFIGURE, bytes));
}
