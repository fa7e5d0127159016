import { classified } from "@stevedore/base";
import { goQuote, type Labels, type TaskStatus } from "@stevedore/core";

/** Labels of containers that the monitor goes by, as clients of containerd set them. */
export const RESTART_LABEL = {
  /** The state the task is to be kept in: `running` or `stopped`. */
  status: "containerd.io/restart.status",
  /** `always` (also when absent or ""), `on-failure[:max]`, `unless-stopped`, `no`. */
  policy: "containerd.io/restart.policy",
  /** How often the monitor has started it. */
  count: "containerd.io/restart.count",
  /** Where its output goes; none when absent. */
  logUri: "containerd.io/restart.loguri",
  /** `true` when a user has stopped it. */
  explicitlyStopped: "containerd.io/restart.explicitly-stopped",
} as const;

export type RestartPolicy =
  | { readonly kind: "always" | "unless-stopped" | "no" }
  /** `maxRetries` 0: without end. */
  | { readonly kind: "on-failure"; readonly maxRetries: number };

/** @throws invalid-argument */
export function parsePolicy(text: string): RestartPolicy {
  const [name = "", ...rest] = text.split(":");
  switch (name) {
    case "":
    case "no":
    case "always":
    case "unless-stopped":
      if (rest.length > 0) {
        throw classified(
          "invalid-argument",
          `restart policy ${goQuote(name)} not support max retry count: invalid argument`,
        );
      }
      return { kind: name === "" ? "always" : name };
    case "on-failure": {
      const count = rest[0];
      if (count === undefined) return { kind: "on-failure", maxRetries: 0 };
      if (!/^[+-]?\d{1,9}$/.test(count)) {
        throw classified("invalid-argument", `invalid max retry count: ${count}: invalid argument`);
      }
      return { kind: "on-failure", maxRetries: Number(count) };
    }
    default:
      throw classified("invalid-argument", `restart policy ${goQuote(text)} not supported: invalid argument`);
  }
}

/** What is known of a container's task; "none" when it has none. */
export interface TaskFacts {
  readonly status: TaskStatus | "none";
  readonly exitStatus: number;
}

export type Decision = "leave" | "start" | "stop";

/**
 * What is to be done about a container, by its labels. A task that is missing counts as ended with status 0, as in the
 * peer: on-failure leaves it alone.
 * @throws invalid-argument for a policy or count that does not parse
 */
export function decide(labels: Labels, task: TaskFacts): Decision {
  const wanted = labels[RESTART_LABEL.status];
  if (wanted === "stopped") return task.status === "stopped" || task.status === "none" ? "leave" : "stop";
  if (wanted !== "running") return "leave";
  if (task.status === "running" || task.status === "paused" || task.status === "pausing") return "leave";
  const policy = parsePolicy(labels[RESTART_LABEL.policy] ?? "");
  switch (policy.kind) {
    case "always":
      return "start";
    case "no":
      return "leave";
    case "unless-stopped":
      return isTrue(labels[RESTART_LABEL.explicitlyStopped]) ? "leave" : "start";
    case "on-failure": {
      const fails = task.exitStatus !== 0 && (policy.maxRetries === 0 || restartCount(labels) < policy.maxRetries);
      return fails ? "start" : "leave";
    }
    default:
      return policy satisfies never;
  }
}

/** How often the monitor has started it. @throws invalid-argument for a count that is none */
export function restartCount(labels: Labels): number {
  const text = labels[RESTART_LABEL.count] ?? "";
  if (text === "") return 0;
  if (!/^[+-]?\d{1,15}$/.test(text)) {
    throw classified(
      "invalid-argument",
      `label ${RESTART_LABEL.count} is no number: ${goQuote(text)}: invalid argument`,
    );
  }
  return Number(text);
}

/** The spellings that Go's strconv takes for true. */
function isTrue(text: string | undefined): boolean {
  return text !== undefined && ["1", "t", "T", "TRUE", "true", "True"].includes(text);
}

/** Milliseconds before the first restart of a task that has just ended: clients get to ask how it ended, and to delete it. */
export const FIRST_DELAY_MS = 100;
/** A task that ran this long starts the back-off anew. */
export const SETTLED_MS = 10_000;

/**
 * Milliseconds from an end to the restart, after `failures` restarts in a row that did not last. It doubles, and never
 * goes beyond the interval, in which the peer would have restarted it.
 */
export function backOff(failures: number, intervalMs: number): number {
  return Math.min(FIRST_DELAY_MS * 2 ** Math.min(failures, 30), intervalMs);
}
