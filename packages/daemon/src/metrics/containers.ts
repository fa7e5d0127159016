/**
 * The figures of every running container. What runs under runc is read from its cgroup here, so that a scrape asks no shim and
 * a shim that is stopped or slow is no matter; other runtimes, whose figures only they know (a VM's are not those of the
 * processes on the host), are asked for Stats within the usual limit.
 */
import { basename } from "node:path";
import { fromBinary } from "@bufbuild/protobuf";
import { backgroundContext, isErrorClass, type Logger, messageOf } from "@stevedore/base";
import type { AnyValue, ContainerStore, KnownTask, LocalTaskManager } from "@stevedore/core";
import { type Cgroup, isRootCgroup, processCgroup, readCgroupMetrics } from "@stevedore/os/cgroup";
import { MetricsSchema as MetricsV1Schema } from "@stevedore/wire/gen/io/containerd/cgroups/v1/metrics_pb";
import { MetricsSchema as MetricsV2Schema } from "@stevedore/wire/gen/io/containerd/cgroups/v2/metrics_pb";
import { typeNameOf } from "@stevedore/wire/typeurl";
import { addCgroupV1, addCgroupV2, type ContainerLabels } from "./cgroup.ts";
import { LabelSet, type MetricPage } from "./family.ts";
import type { Collector } from "./registry.ts";
import { Turns } from "./turns.ts";

/** The shim whose containers' cgroups are the containers' own, whoever made it. */
const RUNC_SHIM = "containerd-shim-runc-v2";

export interface ContainerSources {
  readonly containers: Pick<ContainerStore, "list">;
  readonly tasks: Pick<LocalTaskManager, "known" | "metrics">;
  readonly log: Logger;
  /** The cgroup of a process; for tests. */
  readonly cgroupOf?: (pid: number) => Cgroup;
}

/** Namespace, id and pid of a task → where its cgroup is. */
type Places = Map<string, Cgroup>;

export function containerCollector(sources: ContainerSources): Collector {
  let places: Places = new Map();
  return async (page, signal) => {
    const known = sources.tasks.known().filter(({ status }) => status !== "stopped");
    const labels = await labelsOf(known, sources, signal);
    const fresh: Places = new Map();
    const asked = new Map<string, { readonly task: KnownTask; readonly labels: ContainerLabels }[]>();
    const turns = new Turns();
    for (const task of known) {
      const its = labels.get(`${task.namespace}/${task.id}`);
      if (its === undefined) continue;
      const place = placeOf(task, { places, fresh, cgroupOf: sources.cgroupOf ?? processCgroup });
      if (place === "ask") asked.set(task.namespace, [...(asked.get(task.namespace) ?? []), { task, labels: its }]);
      else if (place !== "ended") addFrom(place, page, its);
      await turns.give(signal);
    }
    places = fresh;
    await Promise.all([...asked].map(async ([namespace, tasks]) => ask(page, { namespace, tasks, sources, signal })));
  };
}

function isRunc({ shim }: KnownTask): boolean {
  return basename(shim) === RUNC_SHIM;
}

/** Where the figures of a task are to be read. Found out once per process. */
function placeOf(
  task: KnownTask,
  { places, fresh, cgroupOf }: { places: Places; fresh: Places; cgroupOf: (pid: number) => Cgroup },
): Cgroup | "ask" | "ended" {
  if (!isRunc(task)) return "ask";
  // Not begun, or found by a restarted daemon whose shim has not answered yet.
  if (task.pid === 0) return "ended";
  const key = `${task.namespace}/${task.id}/${task.pid}`;
  const known = places.get(key);
  if (known !== undefined) {
    fresh.set(key, known);
    return known;
  }
  try {
    const found = cgroupOf(task.pid);
    // A process that is ending has left its group for the root; the root's figures are not a container's.
    if (isRootCgroup(found)) return "ended";
    // What became of the pid while no daemon looked is not known, so the group has to say whose it is.
    if (!groupNames(found, task.id)) return "ask";
    fresh.set(key, found);
    return found;
  } catch (error) {
    if (isErrorClass(error, "not-found")) return "ended";
    throw error;
  }
}

/** Whether a cgroup bears the id, as all do but those that a client has named otherwise. */
function groupNames(cgroup: Cgroup, id: string): boolean {
  return cgroup.version === 2
    ? cgroup.folder.includes(id)
    : [...cgroup.folders.values()].some((folder) => folder.includes(id));
}

/** A group that has gone adds nothing: its container has ended. */
function addFrom(place: Cgroup, page: MetricPage, labels: ContainerLabels): void {
  try {
    const read = readCgroupMetrics(place);
    if (read.version === 2) addCgroupV2(page, labels, read.metrics);
    else addCgroupV1(page, labels, read.metrics);
  } catch (error) {
    if (!isErrorClass(error, "not-found")) throw error;
  }
}

async function labelsOf(
  known: readonly KnownTask[],
  { containers }: ContainerSources,
  signal: AbortSignal,
): Promise<Map<string, ContainerLabels>> {
  const labels = new Map<string, ContainerLabels>();
  for (const namespace of new Set(known.map((task) => task.namespace))) {
    for (const { id, runtime } of await containers.list({ signal, namespace }, [])) {
      const short = new LabelSet({ container_id: id, namespace });
      labels.set(`${namespace}/${id}`, { short, full: short.with({ runtime: runtime.name }) });
    }
  }
  return labels;
}

interface Asked {
  readonly namespace: string;
  readonly tasks: readonly { readonly task: KnownTask; readonly labels: ContainerLabels }[];
  readonly sources: ContainerSources;
  readonly signal: AbortSignal;
}

async function ask(page: MetricPage, { namespace, tasks, sources, signal }: Asked): Promise<void> {
  const filters = tasks.map(({ task }) => `id==${JSON.stringify(task.id)}`);
  const context = backgroundContext({ signal, namespace });
  const answers = await sources.tasks.metrics(context, filters).catch((error: unknown) => {
    sources.log.warn("read figures of containers", { namespace, error: messageOf(error) });
    return [];
  });
  const labels = new Map(tasks.map(({ task, labels: its }) => [task.id, its]));
  for (const { id, data } of answers) {
    const its = labels.get(id);
    if (its !== undefined) addFromMessage(page, its, data);
  }
}

/** Adds what a shim said. A value of another type adds nothing: runtimes may send their own. */
export function addFromMessage(page: MetricPage, labels: ContainerLabels, data: AnyValue): void {
  switch (typeNameOf(data.typeUrl)) {
    case MetricsV1Schema.typeName:
      return addCgroupV1(page, labels, fromBinary(MetricsV1Schema, data.value));
    case MetricsV2Schema.typeName:
      return addCgroupV2(page, labels, fromBinary(MetricsV2Schema, data.value));
    default:
  }
}
