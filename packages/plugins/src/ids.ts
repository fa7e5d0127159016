/**
 * Plugin types and ids as containerd 2.3.4 names them. Clients see them through introspection and users write them into
 * config files, so they are wire format.
 */
export const PluginType = {
  content: "io.containerd.content.v1",
  differ: "io.containerd.differ.v1",
  event: "io.containerd.event.v1",
  gc: "io.containerd.gc.v1",
  grpc: "io.containerd.grpc.v1",
  http: "io.containerd.http.v1",
  imageVerifier: "io.containerd.image-verifier.v1",
  internal: "io.containerd.internal.v1",
  lease: "io.containerd.lease.v1",
  metadata: "io.containerd.metadata.v1",
  metrics: "io.containerd.metrics.v1",
  monitorContainer: "io.containerd.monitor.container.v1",
  monitorTask: "io.containerd.monitor.task.v1",
  runtime: "io.containerd.runtime.v2",
  sandboxController: "io.containerd.sandbox.controller.v1",
  sandboxStore: "io.containerd.sandbox.store.v1",
  server: "io.containerd.server.v1",
  service: "io.containerd.service.v1",
  shim: "io.containerd.shim.v1",
  snapshotter: "io.containerd.snapshotter.v1",
  streaming: "io.containerd.streaming.v1",
  tracingProcessor: "io.containerd.tracing.processor.v1",
  transfer: "io.containerd.transfer.v1",
  warning: "io.containerd.warning.v1",
} as const;

/** The full name of a plugin, as config files and lists of disabled plugins write it. */
export function pluginName(type: string, id: string): string {
  return `${type}.${id}`;
}
