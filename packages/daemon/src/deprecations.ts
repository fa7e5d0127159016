import { existsSync } from "node:fs";
import type { Deprecation, DeprecationLog } from "@stevedore/core";

/** Deprecations of containerd 2.3.4 that this daemon can meet. */
const MESSAGES: Readonly<Record<string, string>> = {
  "io.containerd.deprecation/cgroup-v1":
    "The support for cgroup v1 is deprecated since containerd v2.2 and will be removed by no later than May 2029. Upgrade the host to use cgroup v2.",
  "io.containerd.deprecation/tracing-processor-config":
    'The `otlp` property of `[plugins."io.containerd.tracing.processor.v1".otlp]` is deprecated since containerd v1.6 and will be removed in containerd v2.0.Use OTLP environment variables instead: https://opentelemetry.io/docs/specs/otel/protocol/exporter/',
  "io.containerd.deprecation/tracing-service-config":
    'The `tracing` property of `[plugins."io.containerd.internal.v1".tracing]` is deprecated since containerd v1.6 and will be removed in containerd v2.0.Use OTEL environment variables instead: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/',
};

export const CGROUP_V1 = "io.containerd.deprecation/cgroup-v1";

/** Whether the host's controllers are on cgroup v1. */
export function hostUsesCgroupV1(): boolean {
  return !existsSync("/sys/fs/cgroup/cgroup.controllers");
}

/** Remembers which deprecated things were used, and when last. */
export function createDeprecationLog(): DeprecationLog {
  const seen = new Map<string, Deprecation>();
  return {
    emit: (id) => {
      seen.set(id, { id, message: MESSAGES[id] ?? id, lastOccurrence: new Date() });
    },
    list: () => [...seen.values()].sort((a, b) => (a.id < b.id ? -1 : 1)),
  };
}
