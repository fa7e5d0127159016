import { classified, isErrorClass, type RequestContext } from "@stevedore/base";
import { envelopeFromProto } from "@stevedore/convert/events";
import { timestampToProto } from "@stevedore/convert/timestamps";
import type { EventHistory, HistoryInfo, ReplayedEvent, ReplayStart } from "@stevedore/core";
import type { Transport } from "@stevedore/wire/rpc/index";
import { callOptions, lazyClient, present } from "./call.ts";

/** Milliseconds before the first attempt to reach a daemon that has gone, and what the pauses grow to. */
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 2_000;

/**
 * The event log of a daemon. A replay that follows goes on by itself when the connection breaks or the daemon is started
 * anew, behind the last event it gave: nothing is lost and nothing comes twice.
 */
export function eventLogProxy(transport: Transport): EventHistory {
  const log = lazyClient(
    transport,
    async () => (await import("@stevedore/wire/gen/light/stevedore/events/v1/events_pb")).EventLog,
  );
  const info = async (context: RequestContext): Promise<HistoryInfo> => {
    try {
      const { oldestCursor, newestCursor } = await (await log()).info({}, callOptions(context));
      return { oldest: oldestCursor, newest: newestCursor };
    } catch (error) {
      if (!isErrorClass(error, "not-implemented")) throw error;
      throw classified(
        "not-implemented",
        "read earlier events: this daemon keeps no event log (it does not serve stevedore.events.v1.EventLog, or its max_events is 0); events can be had as they come: not implemented",
        { cause: error },
      );
    }
  };
  async function* readOnce(
    context: RequestContext,
    options: { readonly from: ReplayStart; readonly filters: readonly string[]; readonly follow: boolean },
  ): AsyncGenerator<ReplayedEvent> {
    const { from, filters, follow } = options;
    const request = {
      filters: [...filters],
      follow,
      ...(from.kind === "after" ? { afterCursor: from.cursor } : {}),
      ...(from.kind === "since" ? { since: timestampToProto(from.time) } : {}),
    };
    for await (const { cursor, event } of (await log()).read(request, callOptions(context))) {
      yield { cursor, envelope: envelopeFromProto(present(event, "event")) };
    }
  }
  return {
    info,
    replay: async function* (context, { from, filters, follow }) {
      // Says clearly what is missing, and that there is a daemon at all: from here on one that is gone is waited for.
      await info(context);
      let start = from;
      let pause = FIRST_PAUSE_MS;
      while (!context.signal.aborted) {
        try {
          for await (const event of readOnce(context, { from: start, filters, follow })) {
            start = { kind: "after", cursor: event.cursor };
            pause = FIRST_PAUSE_MS;
            yield event;
          }
          if (!follow) return;
        } catch (error) {
          if (!follow || !isErrorClass(error, "unavailable") || context.signal.aborted) throw error;
        }
        await pauseFor(pause, context.signal);
        pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
      }
    },
  };
}

/** Waits, shorter when the signal ends. */
async function pauseFor(milliseconds: number, signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, milliseconds);
  const stop = (): void => resolve();
  signal.addEventListener("abort", stop, { once: true });
  await promise;
  clearTimeout(timer);
  signal.removeEventListener("abort", stop);
}
