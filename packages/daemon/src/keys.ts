/** Typed names of the plugins that others ask for. */
import type {
  ContainerStore,
  ContentStore,
  DeprecationLog,
  Differ,
  EventExchange,
  EventHistory,
  EventLog,
  ImageStore,
  ImageVerifier,
  LeaseManager,
  LocalTaskManager,
  NamespaceStore,
  PluginRecord,
  SandboxController,
  SandboxStore,
  Snapshotter,
  StreamManager,
  TaskManager,
  Transferrer,
} from "@stevedore/core";
import { PluginType } from "@stevedore/plugins/ids";
import type { MetadataDatabase } from "@stevedore/plugins/metadata/impl";
import type { CallObserver } from "@stevedore/wire/grpc/server";
import type { Router } from "@stevedore/wire/rpc/index";
import type { EndedSpan, Tracer } from "@stevedore/wire/trace/tracer";
import { pluginKey } from "./graph.ts";
import type { GrpcMetrics } from "./metrics/grpc.ts";
import type { Stores } from "./stores.ts";

/** A plugin of type `io.containerd.grpc.v1`: puts its service on the router. */
export interface GrpcService {
  readonly kind: "grpc-service";
  readonly register: (router: Router) => void;
}

export function isGrpcService(value: unknown): value is GrpcService {
  return typeof value === "object" && value !== null && "kind" in value && value.kind === "grpc-service";
}

/** A plugin of type `io.containerd.sandbox.controller.v1`; the mark tells it from other values in the graph. */
export interface SandboxControllerPlugin {
  readonly kind: "sandbox-controller";
  readonly controller: SandboxController;
}

export function isSandboxControllerPlugin(value: unknown): value is SandboxControllerPlugin {
  return typeof value === "object" && value !== null && "kind" in value && value.kind === "sandbox-controller";
}

/** What manages shims: those of tasks, and those that are sandboxes. */
export interface ShimManager {
  readonly tasks: LocalTaskManager;
  readonly sandboxes: SandboxController;
}

/** What a plugin of type `io.containerd.tracing.processor.v1` makes. */
export interface SpanProcessor {
  readonly kind: "span-processor";
  readonly take: (span: EndedSpan) => void;
}

export function isSpanProcessor(value: unknown): value is SpanProcessor {
  return typeof value === "object" && value !== null && "kind" in value && value.kind === "span-processor";
}

/** What a plugin of type `io.containerd.image-verifier.v1` makes; the mark tells it from other values in the graph. */
export interface ImageVerifierPlugin {
  readonly kind: "image-verifier";
  readonly verifier: ImageVerifier;
}

export function isImageVerifierPlugin(value: unknown): value is ImageVerifierPlugin {
  return typeof value === "object" && value !== null && "kind" in value && value.kind === "image-verifier";
}

/** What a plugin of type `io.containerd.transfer.v1` makes; the mark tells it from other values in the graph. */
export interface TransferPlugin {
  readonly kind: "transfer";
  readonly transferrer: Transferrer;
}

export function isTransferPlugin(value: unknown): value is TransferPlugin {
  return typeof value === "object" && value !== null && "kind" in value && value.kind === "transfer";
}

export interface GrpcTraces {
  /** Absent when tracing is off. */
  readonly observe?: CallObserver;
}

export const Key = {
  content: pluginKey<ContentStore>(PluginType.content, "content"),
  deprecations: pluginKey<DeprecationLog>(PluginType.warning, "deprecations"),
  events: pluginKey<EventExchange & EventHistory>(PluginType.event, "exchange"),
  /** Ours alone: what the exchange records into. Its section of the configuration bounds it. Hidden from clients' lists. */
  eventLog: pluginKey<EventLog>("stevedore.events.v1", "log"),
  /** Ours alone: images and content for other machines to pull. Hidden from clients' lists. */
  registryEndpoint: pluginKey<AsyncDisposable>("stevedore.registry.v1", "endpoint"),
  /** Ours alone: the file under the metadata store and the snapshotters' records. Hidden from clients' lists. */
  database: pluginKey<MetadataDatabase>("stevedore.internal.v1", "database"),
  metadata: pluginKey<Stores>(PluginType.metadata, "bolt"),
  containersService: pluginKey<ContainerStore>(PluginType.service, "containers-service"),
  contentService: pluginKey<ContentStore>(PluginType.service, "content-service"),
  diffService: pluginKey<Differ>(PluginType.service, "diff-service"),
  grpcMetrics: pluginKey<GrpcMetrics>(PluginType.metrics, "grpc-prometheus"),
  /** Calls as spans; there when tracing is configured. */
  grpcTraces: pluginKey<GrpcTraces>(PluginType.metrics, "grpc-otel"),
  imagesService: pluginKey<ImageStore>(PluginType.service, "images-service"),
  /** Answers which plugins there are, by filters. @throws invalid-argument on a filter that does not parse */
  introspectionService: pluginKey<(filters: readonly string[]) => PluginRecord[]>(
    PluginType.service,
    "introspection-service",
  ),
  leases: pluginKey<LeaseManager>(PluginType.lease, "manager"),
  namespacesService: pluginKey<NamespaceStore>(PluginType.service, "namespaces-service"),
  snapshotsService: pluginKey<ReadonlyMap<string, Snapshotter>>(PluginType.service, "snapshots-service"),
  streams: pluginKey<StreamManager>(PluginType.streaming, "manager"),
  tasksService: pluginKey<TaskManager>(PluginType.service, "tasks-service"),
  sandboxStore: pluginKey<SandboxStore>(PluginType.sandboxStore, "local"),
  shims: pluginKey<ShimManager>(PluginType.shim, "manager"),
  spanProcessor: pluginKey<SpanProcessor>(PluginType.tracingProcessor, "otlp"),
  tracer: pluginKey<Tracer>(PluginType.internal, "tracing"),
  runtime: pluginKey<LocalTaskManager>(PluginType.runtime, "task"),
};
