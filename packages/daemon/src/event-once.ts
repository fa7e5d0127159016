import type { Envelope, OnceKey } from "@stevedore/core";
import { eventFieldReader } from "@stevedore/wire/event-fields";

/** Topics that tell of a process's one and only start, end and so on, by the word that stands for them in a key. */
const PROCESS_TOPICS: ReadonlyMap<string, string> = new Map([
  ["/tasks/create", "create"],
  ["/tasks/start", "start"],
  ["/tasks/exit", "exit"],
  ["/tasks/delete", "delete"],
  ["/tasks/exec-added", "added"],
  ["/tasks/exec-started", "started"],
]);

/**
 * What makes a forwarded event the same as another. Shims repeat events whose answer did not reach them, and those that
 * take over containers may tell what the one before them has told: a process of a task has one event of each kind, told
 * apart by namespace, container, exec and pid. A new task (and a new exec) of the same name begins anew, since a pid may
 * come again. Undefined for what is not about tasks.
 */
export function onceKeyOf({ namespace, topic, event, timestamp, nanos }: Envelope): OnceKey | undefined {
  if (!topic.startsWith("/tasks/")) return undefined;
  const read = eventFieldReader(event);
  const field = (name: string): string => read([name]) ?? "";
  const container = field("container_id");
  if (container === "") return undefined;
  const word = PROCESS_TOPICS.get(topic);
  const task = `${namespace}/${container}/`;
  // Pauses and the like come again and again: only the very same one is a repetition.
  if (word === undefined) {
    return { key: `${task}/${topic.slice("/tasks/".length)}/${Math.floor(timestamp.getTime() / 1_000)}.${nanos}` };
  }
  const named = word === "exit" || word === "delete" ? field("id") : field("exec_id");
  const process = `${task}${named === container ? "" : named}/`;
  const key = `${process}${word}/${field("pid")}`;
  if (word === "create") return { key, begins: { prefix: task, ended: `${task}/delete/` } };
  return word === "added" ? { key, begins: { prefix: process, ended: `${process}exit/` } } : { key };
}
