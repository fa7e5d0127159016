import { fromBinary } from "@bufbuild/protobuf";
import type { RequestContext } from "@stevedore/base";
import type { Envelope, EventExchange } from "@stevedore/core";
import { TaskCreateSchema, TaskDeleteSchema, TaskExitSchema } from "@stevedore/wire/gen/containerd/events/task_pb";

/** Ends remembered; the oldest are forgotten. A shim that takes over tells again what was told seconds ago. */
const MAX_REMEMBERED = 8_192;

/**
 * Lets the end of a process and of a task through once: a shim that has taken over from a dead one cannot know whether that
 * one's last word was heard. Told apart by namespace, container, process id and pid, until a task of that name is made anew.
 */
export function withoutRepeats(events: EventExchange): Pick<EventExchange, "forward"> {
  const seen = new Map<string, Set<string>>();
  let size = 0;
  const isRepeat = ({ namespace, topic, event }: Envelope): boolean => {
    if (topic === "/tasks/create") {
      const made = `${namespace}/${fromBinary(TaskCreateSchema, event.value).containerId}`;
      size -= seen.get(made)?.size ?? 0;
      seen.delete(made);
      return false;
    }
    if (topic !== "/tasks/exit" && topic !== "/tasks/delete") return false;
    const message =
      topic === "/tasks/exit" ? fromBinary(TaskExitSchema, event.value) : fromBinary(TaskDeleteSchema, event.value);
    const container = `${namespace}/${message.containerId}`;
    const told = seen.get(container) ?? new Set<string>();
    const key = `${topic} ${message.id} ${message.pid}`;
    if (told.has(key)) return true;
    told.add(key);
    size++;
    // The last to change is the last to be forgotten.
    seen.delete(container);
    seen.set(container, told);
    for (const [name, keys] of seen) {
      if (size <= MAX_REMEMBERED) break;
      size -= keys.size;
      seen.delete(name);
    }
    return false;
  };
  return {
    forward: async (context: RequestContext, envelope: Envelope): Promise<void> => {
      if (isRepeat(envelope)) return;
      await events.forward(context, envelope);
    },
  };
}
