import { resolve } from "node:path";
import { errorClassOf, messageOf } from "@stevedore/base/errors";
import { check, SyscallError } from "./errno.ts";
import { duplicate, O, OwnedFd } from "./fd.ts";
import { cString, i32, libc, pointer, u32 } from "./ffi.ts";
import { mountAll } from "./mount.ts";
import { ONE_SHOT_SOCKET, type OneShotAnswer, type OneShotRequest, type OneShotTask } from "./one-shot.ts";
import { awaitDescriptors, connectUnix, listenUnix, sendDescriptors } from "./socket.ts";

/**
 * The helper's side of one-shot.ts: reads one request from descriptor 3, does it, answers with a descriptor and ends.
 * chdir and umask are fine here: this process has no other business.
 */

const lib = libc({
  open: { args: [pointer, i32, u32], returns: i32 },
  chdir: { args: [pointer], returns: i32 },
  umask: { args: [u32], returns: u32 },
});

function perform(task: OneShotTask, cwd: string): OwnedFd | Promise<OwnedFd> {
  switch (task.op) {
    case "open":
      return new OwnedFd(
        check(lib().open(cString(task.path), task.flags | O.CLOEXEC, task.mode ?? 0), "open", task.path),
      );
    case "connect-unix":
      return connectUnix(task.path);
    case "listen-unix":
      return listenUnix(task.path, task.mode === undefined ? {} : { mode: task.mode });
    case "connect-tcp":
      return connectTcp(task.host, task.port);
    case "mount": {
      // Looked up anew after mounting: "." would still mean what is now covered.
      const target = resolve(cwd, task.target);
      mountAll(task.steps, target);
      const flags = O.PATH | O.DIRECTORY | O.CLOEXEC;
      return new OwnedFd(check(lib().open(cString(target), flags, 0), "open", target));
    }
    default:
      throw new Error(`unknown task ${JSON.stringify(task satisfies never)}`);
  }
}

/** Bun resolves and connects; the descriptor is duplicated before its socket object goes. */
async function connectTcp(host: string, port: number): Promise<OwnedFd> {
  const { promise, resolve: done, reject } = Promise.withResolvers<OwnedFd>();
  await Bun.connect({
    hostname: host,
    port,
    socket: {
      open(socket) {
        socket.pause();
        done(new OwnedFd(duplicate((socket as unknown as { fd: number }).fd)));
      },
      data() {
        // paused: bytes stay in the kernel for whoever gets the descriptor
      },
      connectError(_, error) {
        reject(error);
      },
    },
  }).catch(reject);
  return promise;
}

function failure(error: unknown): OneShotAnswer {
  const base = { ok: false, message: messageOf(error), errorClass: errorClassOf(error) } as const;
  return error instanceof SyscallError ? { ...base, errno: error.errno, syscall: error.syscall } : base;
}

/** Runs the helper to its end; the process exits by itself afterwards. */
export async function oneShotMain(): Promise<number> {
  const answer = (value: OneShotAnswer, fds: readonly number[]): void => {
    sendDescriptors(ONE_SHOT_SOCKET, new TextEncoder().encode(JSON.stringify(value)), fds);
  };
  try {
    const { bytes } = await awaitDescriptors(ONE_SHOT_SOCKET, { maxBytes: 65_536 });
    const request = JSON.parse(new TextDecoder().decode(bytes)) as OneShotRequest;
    if (request.umask !== undefined) lib().umask(request.umask);
    if (request.cwd !== undefined) check(lib().chdir(cString(request.cwd)), "chdir", request.cwd);
    using fd = await perform(request.task, request.cwd ?? "/");
    answer({ ok: true }, [fd.fd]);
    return 0;
  } catch (error) {
    answer(failure(error), []);
    return 1;
  }
}

if (import.meta.main) void oneShotMain().then((code) => process.exit(code));
