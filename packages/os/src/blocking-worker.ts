import { ClassifiedError, messageOf } from "@stevedore/base/errors";
import type { BlockingAnswer, BlockingRequest } from "./blocking.ts";
import { blockingCalls } from "./blocking-calls.ts";
import { SyscallError } from "./errno.ts";

/** The thread behind `blocking.ts`: one request at a time, synchronously. */

declare const self: Worker;

function answer({ id, name, args }: BlockingRequest): BlockingAnswer {
  try {
    const call = blockingCalls[name] as (...values: readonly unknown[]) => unknown;
    return { id, ok: true, result: call(...args) };
  } catch (error) {
    if (error instanceof SyscallError) {
      const { errno, syscall, target, message, errorClass } = error;
      return {
        id,
        ok: false,
        error: { message, errorClass, errno, syscall, ...(target === undefined ? {} : { target }) },
      };
    }
    const errorClass = error instanceof ClassifiedError ? error.errorClass : "unknown";
    return { id, ok: false, error: { message: messageOf(error), errorClass } };
  }
}

self.addEventListener("message", (event: MessageEvent<BlockingRequest>) => {
  self.postMessage(answer(event.data));
});
