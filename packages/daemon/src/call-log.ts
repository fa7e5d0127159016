import type { Logger } from "@stevedore/base";
import type { CallObserver } from "@stevedore/wire/grpc/server";

/**
 * Logs each call at debug level, with how long it took and what it answered.
 *
 * @param withTraceId also the id of its trace, where there is one
 */
export function logCalls(log: Logger, { withTraceId = false }: { readonly withTraceId?: boolean } = {}): CallObserver {
  return (method, call) => ({
    ended: ({ status, durationMs }) => {
      log.debug(`${method.parent.typeName}/${method.name}`, {
        code: status.code,
        duration_ms: Math.round(durationMs * 100) / 100,
        ...(status.code === 0 ? {} : { error: status.message }),
        ...(call.peer.pid === undefined ? {} : { peer_pid: call.peer.pid }),
        ...(withTraceId && call.span !== undefined ? { trace_id: call.span.traceId } : {}),
      });
    },
  });
}
