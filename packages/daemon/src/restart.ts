/** The restart monitor, with what this daemon tells it of exits and how it announces that it has set a label. */
import type { RequestContext } from "@stevedore/base";
import type { Container, EventExchange } from "@stevedore/core";
import { RestartMonitor } from "@stevedore/plugins/restart/impl";
import { updateContainer } from "@stevedore/services/containers";
import { eventFieldValue } from "@stevedore/wire/event-fields";
import { durationMs } from "./config/duration.ts";
import { textAt } from "./config/read.ts";
import type { PluginContext } from "./graph.ts";
import { Key } from "./keys.ts";

/** What the peer takes an interval of 0 for, milliseconds. */
const DEFAULT_INTERVAL_MS = 10_000;

export function startRestartMonitor(context: PluginContext): RestartMonitor {
  const containers = context.get(Key.containersService);
  const events = context.get(Key.events);
  const intervalMs = durationMs(textAt(context.config, "interval"), "interval");
  return new RestartMonitor({
    namespaces: context.get(Key.namespacesService),
    containers,
    tasks: context.get(Key.tasksService),
    snapshotters: context.get(Key.snapshotsService),
    setLabel: async (request: RequestContext, container: Container, { key, value }) => {
      const labels = { ...container.labels, [key]: value };
      await updateContainer({ containers, events, context: request }, { ...container, labels }, [`labels.${key}`]);
    },
    exits: (signal) => exitsOf(events, signal),
    intervalMs: intervalMs === 0 ? DEFAULT_INTERVAL_MS : intervalMs,
    log: context.log,
  });
}

/** Ends of containers' first processes. */
async function* exitsOf(
  events: EventExchange,
  signal: AbortSignal,
): AsyncGenerator<{ readonly namespace: string; readonly containerId: string }> {
  for await (const { namespace, event } of events.subscribe({ signal }, ['topic=="/tasks/exit"'])) {
    const containerId = eventFieldValue(event, ["container_id"]) ?? "";
    if (containerId !== "" && eventFieldValue(event, ["id"]) === containerId) yield { namespace, containerId };
  }
}
