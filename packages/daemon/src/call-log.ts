import type { Logger } from "@stevedore/base";
import type { CallObserver } from "@stevedore/wire/grpc/server";

/** Logs each call at debug level, with how long it took and what it answered. */
export function logCalls(log: Logger): CallObserver {
  return (method, { peer }) => ({
    ended: ({ status, durationMs }) => {
      log.debug(`${method.parent.typeName}/${method.name}`, {
        code: status.code,
        duration_ms: Math.round(durationMs * 100) / 100,
        ...(status.code === 0 ? {} : { error: status.message }),
        ...(peer.pid === undefined ? {} : { peer_pid: peer.pid }),
      });
    },
  });
}
