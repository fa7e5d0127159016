/**
 * The plugins of the daemon, in the order in which containerd 2.3.4 lists its own. Each entry says what it needs and how
 * it starts; the code behind it loads when it starts. This is the only place that names implementations.
 */
import { join } from "node:path";
import { classified, isErrorClass } from "@stevedore/base";
import type { ContentStore, DeprecationLog, Differ, PluginRecord, Snapshotter, TaskManager } from "@stevedore/core";
import { PluginType } from "@stevedore/plugins/ids";
import type { CallObserver, GrpcServer } from "@stevedore/wire/grpc/server";
import { Router } from "@stevedore/wire/rpc/index";
import type { TracingConfig } from "@stevedore/wire/trace/settings";
import { durationMs } from "./config/duration.ts";
import { flagAt, numberAt, sectionAt, textAt, textsAt } from "./config/read.ts";
import {
  type AnyPlugin,
  type PluginContext,
  type PluginKey,
  type PluginName,
  plugin,
  pluginKey,
  SkipPlugin,
} from "./graph.ts";
import { useOptFolder } from "./host.ts";
import {
  type GrpcService,
  type ImageVerifierPlugin,
  isGrpcService,
  isImageVerifierPlugin,
  isSandboxControllerPlugin,
  isSpanProcessor,
  isTransferPlugin,
  Key,
  type SandboxControllerPlugin,
  type SpanProcessor,
  type TransferPlugin,
} from "./keys.ts";
import { MetricsRegistry } from "./metrics/registry.ts";
import { hostPlugin, pluginPlatform } from "./platform.ts";
import { workerCommand } from "./self.ts";

export interface BuiltinOptions {
  readonly root: string;
  readonly state: string;
  /** Whether the log has debug lines, of calls and of shims. */
  readonly debug: boolean;
  /** Whether these lines have the ids of traces. */
  readonly logTraceId: boolean;
  /** Sockets that shims are told of. */
  readonly grpcAddress: string;
  readonly ttrpcAddress: string;
  /** Go durations by name. */
  readonly timeouts: Readonly<Record<string, unknown>>;
  /** `[stream_processors]` by id. */
  readonly streamProcessors: Readonly<Record<string, unknown>>;
  readonly proxyPlugins: Readonly<Record<string, unknown>>;
  /** Keys of the two tracing plugins. */
  readonly tracingConfig: TracingConfig;
  /** Key `no_sync` of the metadata, whose file belongs to a plugin without a section. */
  readonly noSync: boolean;
  readonly version: { readonly version: string; readonly revision: string };
  readonly deprecations: DeprecationLog;
  /** What the graph tells clients of itself. */
  readonly records: (platform: ReturnType<typeof hostPlugin>) => readonly PluginRecord[];
}

/** What a snapshotter plugin makes; the mark tells it from other values in the graph. */
interface SnapshotterPlugin {
  readonly kind: "snapshotter";
  readonly snapshotter: Snapshotter;
}

function isContentStore(value: unknown): value is ContentStore {
  return typeof value === "object" && value !== null && "writer" in value && "listStatuses" in value;
}

/**
 * The one content store, ours or a proxy's: containerd takes no other number.
 * @throws failed-precondition
 */
function theContentStore(stores: ReadonlyMap<string, ContentStore>): ContentStore {
  const [only, second] = stores.values();
  if (only !== undefined && second === undefined) return only;
  const found = [...stores.keys()].map((id) => `${PluginType.content}.${id}`).join(" and ");
  throw classified(
    "failed-precondition",
    `the metadata store takes one content store, found ${found === "" ? "none" : found}; name those it should not take in disabled_plugins: failed precondition`,
  );
}

function isSnapshotterPlugin(value: unknown): value is SnapshotterPlugin {
  return typeof value === "object" && value !== null && "kind" in value && value.kind === "snapshotter";
}

interface DifferPlugin {
  readonly kind: "differ";
  readonly differ: Differ;
}

function isDifferPlugin(value: unknown): value is DifferPlugin {
  return typeof value === "object" && value !== null && "kind" in value && value.kind === "differ";
}

const ANY = "*";

export function builtins(options: BuiltinOptions): AnyPlugin[] {
  const { root } = options;
  const folder = (type: string, id: string): string => join(root, `${type}.${id}`);
  const metrics = new MetricsRegistry();
  const collections = metrics.counter(COLLECTIONS);
  const collecting = metrics.histogram(COLLECTING);
  return [
    plugin({
      key: Key.content,
      requires: [],
      start: async (context) => {
        const { createLocalContent } = await import("@stevedore/plugins/content-local/store");
        const directory = folder(PluginType.content, "content");
        context.export("root", directory);
        return createLocalContent({ directory, log: context.log });
      },
    }),
    plugin({
      key: pluginKey<ImageVerifierPlugin>(PluginType.imageVerifier, "bindir"),
      requires: [],
      start: async (context): Promise<ImageVerifierPlugin> => {
        const { createBinDirVerifier } = await import("@stevedore/plugins/image-verifier/impl");
        const { config, log } = context;
        const verifier = createBinDirVerifier({
          binDir: textAt(config, "bin_dir"),
          maxVerifiers: numberAt(config, "max_verifiers"),
          timeoutMs: durationMs(textAt(config, "per_verifier_timeout"), "per_verifier_timeout"),
          log,
        });
        return { kind: "image-verifier", verifier };
      },
    }),
    plugin({
      key: pluginKey<{ readonly path: string }>(PluginType.internal, "opt"),
      requires: [],
      start: async (context) => {
        const path = textAt(context.config, "path");
        context.export("path", path);
        await useOptFolder(path);
        return { path };
      },
    }),
    plugin({ key: Key.deprecations, requires: [], start: async () => options.deprecations }),
    plugin({
      key: Key.eventLog,
      requires: [Key.database],
      start: async (context) => {
        const { openEventLog } = await import("@stevedore/plugins/metadata/event-log");
        const { config } = context;
        const maxEvents = numberAt(config, "max_events");
        if (maxEvents === 0) throw new SkipPlugin("max_events is 0: events are not kept");
        return openEventLog(context.get(Key.database), {
          maxEvents,
          maxAge: durationMs(textAt(config, "max_age"), "max_age"),
          maxBytes: numberAt(config, "max_bytes"),
        });
      },
    }),
    plugin({
      key: Key.events,
      requires: [Key.eventLog],
      start: async (context) => {
        const [{ createEventExchange }, { eventField }, { onceKeyOf }] = await Promise.all([
          import("@stevedore/plugins/events/impl"),
          import("./event-field.ts"),
          import("./event-once.ts"),
        ]);
        const eventLog = context.find(Key.eventLog);
        return createEventExchange({
          eventField,
          onceKey: onceKeyOf,
          log: context.log,
          ...(eventLog === undefined ? {} : { eventLog }),
        });
      },
    }),
    ...tracing(options),
    ...snapshotters(options),
    plugin({
      key: Key.database,
      requires: [],
      start: async (context) => {
        const { MetadataDatabase } = await import("@stevedore/plugins/metadata/database");
        const directory = folder(PluginType.metadata, "bolt");
        return context.cleanup.use(
          await MetadataDatabase.open({ directory, noSync: options.noSync, log: context.log }),
        );
      },
    }),
    plugin({
      key: Key.metadata,
      requires: [
        { type: PluginType.content, id: ANY },
        Key.events,
        Key.database,
        { type: PluginType.snapshotter, id: ANY },
      ],
      start: async (context) => {
        const [{ openStores }, { DATABASE_FILE }] = await Promise.all([
          import("./stores.ts"),
          import("@stevedore/plugins/metadata/database"),
        ]);
        context.export("path", join(folder(PluginType.metadata, "bolt"), DATABASE_FILE));
        context.export("policy", textAt(context.config, "content_sharing_policy"));
        return openStores({
          database: context.get(Key.database),
          content: theContentStore(context.all(PluginType.content, isContentStore)),
          events: context.get(Key.events),
          snapshotters: mapValues(context.all(PluginType.snapshotter, isSnapshotterPlugin), (made) => made.snapshotter),
          sharing: textAt(context.config, "content_sharing_policy"),
          log: context.log,
        });
      },
    }),
    plugin({
      key: pluginKey<AsyncDisposable>(PluginType.gc, "scheduler"),
      requires: [Key.metadata],
      start: async (context) => {
        const stores = context.get(Key.metadata);
        const { GcScheduler } = await import("@stevedore/plugins/gc/impl");
        const { config, log } = context;
        context.export("PauseThreshold", String(numberAt(config, "pause_threshold")));
        context.export("DeletionThreshold", String(numberAt(config, "deletion_threshold")));
        context.export("MutationThreshold", String(numberAt(config, "mutation_threshold")));
        context.export("ScheduleDelay", textAt(config, "schedule_delay"));
        const scheduler = new GcScheduler({
          collector: stores.collector,
          log,
          onCollection: (stats) => {
            collections.add({ status: stats === undefined ? "fail" : "success" });
            if (stats !== undefined) collecting.observe(stats.elapsedMs / MS_PER_SECOND);
          },
          config: {
            pauseThreshold: numberAt(config, "pause_threshold"),
            deletionThreshold: numberAt(config, "deletion_threshold"),
            mutationThreshold: numberAt(config, "mutation_threshold"),
            scheduleDelayMs: durationMs(textAt(config, "schedule_delay"), "schedule_delay"),
            startupDelayMs: durationMs(textAt(config, "startup_delay"), "startup_delay"),
          },
        });
        context.cleanup.use(scheduler);
        context.cleanup.use(stores.collectThrough(async (signal) => scheduler.scheduleAndWait(signal)));
        return scheduler;
      },
    }),
    ...coreServices(options),
    ...monitors(metrics),
    ...grpcServices(options),
    ...servers(options, metrics),
  ];
}

function mapValues<A, B>(map: ReadonlyMap<string, A>, to: (value: A) => B): Map<string, B> {
  return new Map([...map].map(([key, value]) => [key, to(value)]));
}

function snapshotters({ root, proxyPlugins }: BuiltinOptions): AnyPlugin[] {
  const key = (id: string): PluginKey<SnapshotterPlugin> => pluginKey(PluginType.snapshotter, id);
  const rootOf = (context: PluginContext, id: string): string => {
    const given = textAt(context.config, "root_path");
    const path = given === "" ? join(root, `${PluginType.snapshotter}.${id}`) : given;
    context.export("root", path);
    return path;
  };
  return [
    plugin({
      key: key("native"),
      requires: [Key.database],
      platformBound: true,
      start: async (context): Promise<SnapshotterPlugin> => {
        const [{ createNativeSnapshotter }, { createSnapshotRecords }] = await Promise.all([
          import("@stevedore/plugins/snapshot-native/impl"),
          import("@stevedore/plugins/metadata/snapshot-records"),
        ]);
        const records = createSnapshotRecords(context.get(Key.database), "native");
        const snapshotter = await createNativeSnapshotter({
          root: rootOf(context, "native"),
          records,
          logger: context.log,
        });
        return { kind: "snapshotter", snapshotter };
      },
    }),
    plugin({
      key: key("overlayfs"),
      requires: [Key.database],
      platformBound: true,
      start: async (context): Promise<SnapshotterPlugin> => {
        const [{ createOverlaySnapshotter, idmappedMounts }, { overlayCapabilities }, { createSnapshotRecords }] =
          await Promise.all([
            import("@stevedore/plugins/snapshot-overlay/impl"),
            import("@stevedore/plugins/snapshot-overlay/plugin"),
            import("@stevedore/plugins/metadata/snapshot-records"),
          ]);
        const { config } = context;
        const root = rootOf(context, "overlayfs");
        const remapIds = await idmappedMounts(root);
        for (const name of overlayCapabilities({ slowChown: flagAt(config, "slow_chown"), idmappedMounts: remapIds })) {
          context.capability(name);
        }
        const snapshotter = await createOverlaySnapshotter({
          root,
          records: createSnapshotRecords(context.get(Key.database), "overlayfs"),
          upperdirLabel: flagAt(config, "upperdir_label"),
          syncRemove: flagAt(config, "sync_remove"),
          mountOptions: textsAt(config, "mount_options"),
          remapIds,
          logger: context.log,
        });
        return { kind: "snapshotter", snapshotter };
      },
    }),
    ...proxies(proxyPlugins),
  ];
}

/** Plugins in other processes, from the section `proxy_plugins`. */
function proxies(section: Readonly<Record<string, unknown>>): AnyPlugin[] {
  return Object.keys(section).flatMap((name) => {
    const config = sectionAt(section, name);
    const transport = async (context: PluginContext) => {
      const { createGrpcTransport } = await import("@stevedore/wire/grpc/client");
      const made = createGrpcTransport({ address: textAt(config, "address") });
      context.cleanup.defer(async () => made.close());
      for (const [key, value] of Object.entries(sectionAt(config, "exports"))) context.export(key, String(value));
      context.export("address", textAt(config, "address"));
      if (config["capabilities"] !== undefined) {
        for (const capability of textsAt(config, "capabilities")) context.capability(capability);
      }
      const platform = config["platform"] === undefined ? "" : textAt(config, "platform");
      if (platform !== "") context.platforms([pluginPlatform(platform)]);
      return made;
    };
    const modules = () => import("@stevedore/plugins/proxy/index");
    switch (textAt(config, "type")) {
      case "snapshot":
        return [
          plugin({
            key: pluginKey<SnapshotterPlugin>(PluginType.snapshotter, name),
            requires: [],
            start: async (context): Promise<SnapshotterPlugin> => {
              const { createProxySnapshotter } = await modules();
              const snapshotter = createProxySnapshotter({ transport: await transport(context), name });
              return { kind: "snapshotter", snapshotter };
            },
          }),
        ];
      case "content":
        return [
          plugin({
            key: pluginKey<ContentStore>(PluginType.content, name),
            requires: [],
            start: async (context) => {
              const { createProxyContentStore } = await modules();
              return createProxyContentStore({ transport: await transport(context) });
            },
          }),
        ];
      case "diff":
        return [
          plugin({
            key: pluginKey<DifferPlugin>(PluginType.differ, name),
            requires: [],
            start: async (context): Promise<DifferPlugin> => {
              const { createProxyDiffer } = await modules();
              return { kind: "differ", differ: createProxyDiffer({ transport: await transport(context) }) };
            },
          }),
        ];
      case "sandbox":
        return [
          plugin({
            key: pluginKey<SandboxControllerPlugin>(PluginType.sandboxController, name),
            requires: [],
            start: async (context): Promise<SandboxControllerPlugin> => {
              const { createProxySandboxController } = await modules();
              const controller = createProxySandboxController({ transport: await transport(context), name });
              return { kind: "sandbox-controller", controller };
            },
          }),
        ];
      default:
        return [
          plugin({
            key: pluginKey<never>(PluginType.internal, `proxy-${name}`),
            requires: [],
            start: async () => {
              throw new SkipPlugin(
                `proxy plugin ${JSON.stringify(name)} has unknown type ${JSON.stringify(config["type"])}`,
              );
            },
          }),
        ];
    }
  });
}

const TRACING_DEPRECATIONS = {
  otlp: "io.containerd.deprecation/tracing-processor-config",
  service: "io.containerd.deprecation/tracing-service-config",
} as const;

/** Tracing over OTLP. Unless it is configured, nothing of it is loaded. */
function tracing({ version, deprecations, tracingConfig: config }: BuiltinOptions): AnyPlugin[] {
  const off = async (): Promise<string | undefined> => {
    // Most daemons have neither, and need not read the rest.
    const named = config.endpoint !== "" || Object.keys(process.env).some((name) => name.startsWith("OTEL_"));
    if (!named) return "tracing endpoint not configured";
    return (await import("@stevedore/wire/trace/settings")).whyOff(process.env, config.endpoint);
  };
  const skipIfOff = async (): Promise<void> => {
    const why = await off();
    if (why !== undefined) throw new SkipPlugin(why);
  };
  return [
    plugin({
      key: Key.spanProcessor,
      requires: [],
      start: async (context): Promise<SpanProcessor> => {
        if (config.endpoint !== "" || config.protocol !== "" || config.insecure) {
          deprecations.emit(TRACING_DEPRECATIONS.otlp);
        }
        await skipIfOff();
        const [{ exportSettings, resourceOf }, { SpanExporter }] = await Promise.all([
          import("@stevedore/wire/trace/settings"),
          import("@stevedore/wire/trace/exporter"),
        ]);
        const exporter = new SpanExporter({
          settings: exportSettings(process.env, config),
          resource: resourceOf(process.env, { serviceName: config.serviceName, version: version.version }),
          log: context.log,
        });
        context.cleanup.use(exporter);
        return { kind: "span-processor", take: exporter.take };
      },
    }),
    plugin({
      key: Key.tracer,
      requires: [{ type: PluginType.tracingProcessor, id: ANY }],
      start: async (context) => {
        if (config.serviceName !== "" || config.samplingRatio !== 0) deprecations.emit(TRACING_DEPRECATIONS.service);
        await skipIfOff();
        const processors = [...context.all(PluginType.tracingProcessor, isSpanProcessor).values()];
        const [{ Tracer }, { samplerOf }] = await Promise.all([
          import("@stevedore/wire/trace/tracer"),
          import("@stevedore/wire/trace/sampler"),
        ]);
        return new Tracer({
          sampler: samplerOf(process.env, config.samplingRatio, context.log),
          sink: (span) => {
            for (const { take } of processors) take(span);
          },
        });
      },
    }),
  ];
}

/** With tracing, what it is given with a span around each call. */
async function withSpans<T extends object>(context: PluginContext, name: string, thing: T): Promise<T> {
  if (context.find(Key.tracer) === undefined) return thing;
  return (await import("./tracing.ts")).spanned(name, thing);
}

/** The layer of services that the peer lists between stores and gRPC. */
function coreServices(options: BuiltinOptions): AnyPlugin[] {
  const { root, state, timeouts, grpcAddress, ttrpcAddress, version, debug } = options;
  return [
    plugin({
      key: pluginKey<DifferPlugin>(PluginType.differ, "walking"),
      requires: [Key.metadata],
      platformBound: true,
      start: async (context): Promise<DifferPlugin> => {
        const [{ createWalkingDiffer }, { streamProcessorsOf }] = await Promise.all([
          import("@stevedore/plugins/diff-walking/impl"),
          import("@stevedore/plugins/diff-walking/plugin"),
        ]);
        const differ = createWalkingDiffer({
          content: context.get(Key.metadata).content,
          workerCommand: workerCommand("unpack-worker"),
          stateDir: join(state, `${PluginType.differ}.walking`),
          streamProcessors: streamProcessorsOf(options.streamProcessors),
          logger: context.log,
        });
        return { kind: "differ", differ };
      },
    }),
    plugin({
      key: Key.containersService,
      requires: [Key.metadata, Key.tracer],
      start: async (context) => withSpans(context, "metadata.containers", context.get(Key.metadata).containers),
    }),
    plugin({
      key: Key.contentService,
      requires: [Key.metadata, Key.tracer],
      start: async (context) => withSpans(context, "metadata.content", context.get(Key.metadata).content),
    }),
    plugin({
      key: Key.diffService,
      requires: [{ type: PluginType.differ, id: ANY }, Key.tracer],
      start: async (context) => {
        const differ = firstCapable(context.all(PluginType.differ, isDifferPlugin), {
          order: textsAt(context.config, "default"),
          syncFs: flagAt(context.config, "sync_fs"),
        });
        return withSpans(context, "diff", differ);
      },
    }),
    plugin({
      key: Key.imagesService,
      requires: [Key.metadata, Key.tracer],
      start: async (context) => withSpans(context, "metadata.images", context.get(Key.metadata).images),
    }),
    plugin({
      key: Key.introspectionService,
      requires: [],
      start: async () => {
        const { filterPlugins } = await import("./plugin-filter.ts");
        return (filters: readonly string[]) => filterPlugins(options.records(hostPlugin()), filters);
      },
    }),
    plugin({
      key: Key.namespacesService,
      requires: [Key.metadata, Key.tracer],
      start: async (context) => withSpans(context, "metadata.namespaces", context.get(Key.metadata).namespaces),
    }),
    plugin({
      key: Key.snapshotsService,
      requires: [Key.metadata, Key.tracer],
      start: async (context) => {
        const all: [string, Snapshotter][] = [];
        for (const [id, snapshotter] of context.get(Key.metadata).snapshotters) {
          all.push([id, await withSpans(context, `snapshots.${id}`, snapshotter)]);
        }
        return new Map(all);
      },
    }),
    plugin({
      key: Key.leases,
      requires: [Key.metadata, Key.tracer],
      start: async (context) => withSpans(context, "metadata.leases", context.get(Key.metadata).leases),
    }),
    plugin({
      key: Key.shims,
      requires: [Key.events, Key.metadata],
      start: async (context) => {
        const { startShimManager } = await import("./runtime.ts");
        return startShimManager({
          root,
          state,
          timeouts,
          grpcAddress,
          ttrpcAddress,
          version: version.version,
          debug,
          context,
        });
      },
    }),
    plugin({
      key: Key.runtime,
      requires: [Key.shims],
      platformBound: true,
      start: async (context) => {
        context.platforms(textsAt(context.config, "platforms").map(pluginPlatform));
        context.export("log-uri-schemes", "fifo,binary,binary-v2,file");
        return context.get(Key.shims).tasks;
      },
    }),
    plugin({
      key: Key.tasksService,
      requires: [Key.runtime, Key.metadata, Key.diffService, Key.tracer],
      start: async (context) => {
        const [{ CheckpointingTasks }, { anyToBytes, checkpointWishes }] = await Promise.all([
          import("@stevedore/plugins/checkpoints/impl"),
          import("@stevedore/convert/runc-options"),
        ]);
        const { containers, content } = context.get(Key.metadata);
        const tasks = new CheckpointingTasks({
          runtime: context.get(Key.runtime),
          containers,
          content,
          differ: context.get(Key.diffService),
          root: join(root, `${PluginType.service}.tasks-service`),
          wishes: checkpointWishes,
          encodeAny: anyToBytes,
          log: context.log,
        });
        tasks.load();
        return withSpans<TaskManager>(context, "tasks", tasks);
      },
    }),
  ];
}

/**
 * Walks the differs in the configured order until one takes the work.
 * @throws invalid-argument for a name that no differ has
 */
function firstCapable(
  differs: ReadonlyMap<string, DifferPlugin>,
  { order, syncFs }: { readonly order: readonly string[]; readonly syncFs: boolean },
): Differ {
  const chain = order.map((name) => {
    const found = differs.get(name);
    if (found === undefined)
      throw classified("invalid-argument", `needed differ not loaded: ${name}: invalid argument`);
    return found.differ;
  });
  const walk = async <T>(use: (differ: Differ) => Promise<T>): Promise<T> => {
    let refusal: unknown = classified("not-implemented", "no differ is configured: not implemented");
    for (const differ of chain) {
      try {
        return await use(differ);
      } catch (error) {
        if (!isErrorClass(error, "not-implemented")) throw error;
        refusal = error;
      }
    }
    throw refusal instanceof Error ? refusal : new Error(String(refusal));
  };
  return {
    apply: async (context, descriptor, options) => {
      // Synced when the configuration or the client wants it.
      const synced = syncFs ? { ...options, syncFs } : options;
      return walk(async (differ) => differ.apply(context, descriptor, synced));
    },
    compare: async (context, lower, options) => walk(async (differ) => differ.compare(context, lower, options)),
  };
}

function grpcPlugin(
  id: string,
  of: {
    readonly requires: readonly PluginName[];
    readonly register: (context: PluginContext) => Promise<GrpcService["register"]>;
  },
): AnyPlugin {
  return plugin({
    key: pluginKey<GrpcService>(PluginType.grpc, id),
    requires: of.requires,
    start: async (context): Promise<GrpcService> => ({ kind: "grpc-service", register: await of.register(context) }),
  });
}

function grpcServices({ root, version, deprecations }: BuiltinOptions): AnyPlugin[] {
  return [
    grpcPlugin("containers", {
      requires: [Key.containersService, Key.events],
      register: async (context) => {
        const [{ containersService }, { Containers }] = await Promise.all([
          import("@stevedore/services/containers"),
          import("@stevedore/wire/gen/containerd/services/containers/v1/containers_pb"),
        ]);
        const service = containersService({
          containers: context.get(Key.containersService),
          events: context.get(Key.events),
        });
        return (router) => void router.service(Containers, service);
      },
    }),
    grpcPlugin("content", {
      requires: [Key.contentService, Key.events],
      register: async (context) => {
        const [{ contentService }, { Content }] = await Promise.all([
          import("@stevedore/services/content"),
          import("@stevedore/wire/gen/containerd/services/content/v1/content_pb"),
        ]);
        const service = contentService({ content: context.get(Key.contentService), events: context.get(Key.events) });
        return (router) => void router.service(Content, service);
      },
    }),
    grpcPlugin("diff", {
      requires: [Key.diffService],
      register: async (context) => {
        const [{ diffService }, { Diff }] = await Promise.all([
          import("@stevedore/services/diff"),
          import("@stevedore/wire/gen/containerd/services/diff/v1/diff_pb"),
        ]);
        const service = diffService({ diff: context.get(Key.diffService) });
        return (router) => void router.service(Diff, service);
      },
    }),
    grpcPlugin("events", {
      requires: [Key.events],
      register: async (context) => {
        const [{ eventsService }, { eventLogService }, { Events }, { EventLog }] = await Promise.all([
          import("@stevedore/services/events"),
          import("@stevedore/services/event-log"),
          import("@stevedore/wire/gen/containerd/services/events/v1/events_pb"),
          import("@stevedore/wire/gen/stevedore/events/v1/events_pb"),
        ]);
        const events = context.get(Key.events);
        const service = eventsService({ events });
        const logService = eventLogService({ history: events });
        return (router) => void router.service(Events, service).service(EventLog, logService);
      },
    }),
    grpcPlugin("images", {
      requires: [Key.imagesService, Key.events],
      register: async (context) => {
        const [{ imagesService }, { Images }] = await Promise.all([
          import("@stevedore/services/images"),
          import("@stevedore/wire/gen/containerd/services/images/v1/images_pb"),
        ]);
        const service = imagesService({ images: context.get(Key.imagesService), events: context.get(Key.events) });
        return (router) => void router.service(Images, service);
      },
    }),
    grpcPlugin("introspection", {
      requires: [Key.introspectionService],
      register: async (context) => {
        const [{ introspectionService }, { Introspection }, { daemonIdentity }] = await Promise.all([
          import("@stevedore/services/introspection"),
          import("@stevedore/wire/gen/containerd/services/introspection/v1/introspection_pb"),
          import("./identity.ts"),
        ]);
        const service = introspectionService({
          plugins: context.get(Key.introspectionService),
          identity: async () => daemonIdentity(root),
          deprecations,
          extraOf: (type, id) =>
            type === PluginType.runtime && id === "task"
              ? async (request, signal) => (await import("./runtime-info.ts")).runtimeInfo(request, signal)
              : undefined,
        });
        return (router) => void router.service(Introspection, service);
      },
    }),
    grpcPlugin("leases", {
      requires: [Key.leases],
      register: async (context) => {
        const [{ leasesService }, { Leases }] = await Promise.all([
          import("@stevedore/services/leases"),
          import("@stevedore/wire/gen/containerd/services/leases/v1/leases_pb"),
        ]);
        const service = leasesService({ leases: context.get(Key.leases) });
        return (router) => void router.service(Leases, service);
      },
    }),
    grpcPlugin("namespaces", {
      requires: [Key.namespacesService, Key.events],
      register: async (context) => {
        const [{ namespacesService }, { Namespaces }] = await Promise.all([
          import("@stevedore/services/namespaces"),
          import("@stevedore/wire/gen/containerd/services/namespaces/v1/namespace_pb"),
        ]);
        const service = namespacesService({
          namespaces: context.get(Key.namespacesService),
          events: context.get(Key.events),
        });
        return (router) => void router.service(Namespaces, service);
      },
    }),
    plugin({
      key: Key.sandboxStore,
      requires: [Key.metadata],
      start: async (context) => context.get(Key.metadata).sandboxes,
    }),
    plugin({
      key: pluginKey<TransferPlugin>(PluginType.transfer, "local"),
      requires: [
        Key.leases,
        Key.metadata,
        Key.events,
        Key.introspectionService,
        Key.diffService,
        { type: PluginType.differ, id: ANY },
        { type: PluginType.imageVerifier, id: ANY },
      ],
      start: async (context): Promise<TransferPlugin> => {
        const { startTransfer } = await import("./transfer.ts");
        const transferrer = await startTransfer({
          context,
          userAgent: `containerd/${version.version}`,
          differs: mapValues(context.all(PluginType.differ, isDifferPlugin), ({ differ }) => differ),
          verifiers: mapValues(
            context.all(PluginType.imageVerifier, isImageVerifierPlugin),
            ({ verifier }) => verifier,
          ),
        });
        return { kind: "transfer", transferrer };
      },
    }),
    plugin({
      key: pluginKey<SandboxControllerPlugin>(PluginType.sandboxController, "shim"),
      requires: [Key.shims, Key.events],
      start: async (context): Promise<SandboxControllerPlugin> => ({
        kind: "sandbox-controller",
        controller: context.get(Key.shims).sandboxes,
      }),
    }),
    grpcPlugin("sandbox-controllers", {
      requires: [{ type: PluginType.sandboxController, id: ANY }, Key.events],
      register: async (context) => {
        const plugins = context.all(PluginType.sandboxController, isSandboxControllerPlugin);
        if (plugins.size === 0) throw classified("not-found", "no sandbox controllers initialized: plugin: not found");
        const [{ sandboxControllersService }, { Controller }] = await Promise.all([
          import("@stevedore/services/sandbox-controllers"),
          import("@stevedore/wire/gen/containerd/services/sandbox/v1/sandbox_pb"),
        ]);
        const service = sandboxControllersService({
          controllers: mapValues(plugins, ({ controller }) => controller),
          events: context.get(Key.events),
        });
        return (router) => void router.service(Controller, service);
      },
    }),
    grpcPlugin("sandboxes", {
      requires: [Key.sandboxStore],
      register: async (context) => {
        const [{ sandboxesService }, { Store }] = await Promise.all([
          import("@stevedore/services/sandboxes"),
          import("@stevedore/wire/gen/containerd/services/sandbox/v1/sandbox_pb"),
        ]);
        const service = sandboxesService({ sandboxes: context.get(Key.sandboxStore) });
        return (router) => void router.service(Store, service);
      },
    }),
    grpcPlugin("snapshots", {
      requires: [Key.snapshotsService, Key.events],
      register: async (context) => {
        const [{ snapshotsService }, { Snapshots }] = await Promise.all([
          import("@stevedore/services/snapshots"),
          import("@stevedore/wire/gen/containerd/services/snapshots/v1/snapshots_pb"),
        ]);
        const service = snapshotsService({
          snapshotters: context.get(Key.snapshotsService),
          events: context.get(Key.events),
        });
        return (router) => void router.service(Snapshots, service);
      },
    }),
    plugin({
      key: Key.streams,
      requires: [Key.metadata],
      start: async (context) => {
        const { Streams } = await import("@stevedore/plugins/streaming/impl");
        const stores = context.get(Key.metadata);
        const streams = new Streams({ leases: stores.leases, log: context.log });
        context.cleanup.use(stores.afterCollection(async () => streams.closeUnleased()));
        return streams;
      },
    }),
    grpcPlugin("streaming", {
      requires: [Key.streams],
      register: async (context) => {
        const [{ streamingService }, { Streaming }] = await Promise.all([
          import("@stevedore/services/streaming"),
          import("@stevedore/wire/gen/containerd/services/streaming/v1/streaming_pb"),
        ]);
        const service = streamingService({ streams: context.get(Key.streams) });
        return (router) => void router.service(Streaming, service);
      },
    }),
    grpcPlugin("tasks", {
      requires: [Key.tasksService],
      register: async (context) => {
        const [{ tasksService }, { Tasks }] = await Promise.all([
          import("@stevedore/services/tasks"),
          import("@stevedore/wire/gen/containerd/services/tasks/v1/tasks_pb"),
        ]);
        const service = tasksService({ tasks: context.get(Key.tasksService) });
        return (router) => void router.service(Tasks, service);
      },
    }),
    grpcPlugin("transfer", {
      requires: [{ type: PluginType.transfer, id: ANY }, Key.streams],
      register: async (context) => {
        const [{ transferService }, { Transfer }] = await Promise.all([
          import("@stevedore/services/transfer"),
          import("@stevedore/wire/gen/containerd/services/transfer/v1/transfer_pb"),
        ]);
        const service = transferService({
          streams: context.get(Key.streams),
          transferrers: [...context.all(PluginType.transfer, isTransferPlugin).values()].map(
            (each) => each.transferrer,
          ),
        });
        return (router) => void router.service(Transfer, service);
      },
    }),
    grpcPlugin("version", {
      requires: [],
      register: async () => {
        const [{ versionService }, { Version }] = await Promise.all([
          import("@stevedore/services/version"),
          import("@stevedore/wire/gen/containerd/services/version/v1/version_pb"),
        ]);
        return (router) => void router.service(Version, versionService(version));
      },
    }),
    grpcPlugin("healthcheck", {
      requires: [],
      register: async () => {
        const { registerHealth } = await import("./health.ts");
        return registerHealth;
      },
    }),
  ];
}

/** Disabling it takes the profiles off the debug socket. */
const PROFILES = pluginKey<{ readonly profiles: true }>(PluginType.http, "pprof");

const COLLECTIONS = {
  name: "containerd_gc_collections_total",
  help: "counter of gc scheduler collections",
} as const;

const COLLECTING = { name: "containerd_gc_gc_seconds", help: "duration of gc scheduler collections" } as const;
const MS_PER_SECOND = 1000;

function monitors(metrics: MetricsRegistry): AnyPlugin[] {
  return [
    plugin({
      key: pluginKey<object>(PluginType.monitorTask, "cgroups"),
      requires: [Key.metadata, Key.runtime],
      platformBound: true,
      start: async (context) => {
        if (flagAt(context.config, "no_prometheus")) return {};
        const { containerCollector } = await import("./metrics/containers.ts");
        const { containers } = context.get(Key.metadata);
        const tasks = context.get(Key.runtime);
        context.cleanup.use(metrics.register(containerCollector({ containers, tasks, log: context.log })));
        return {};
      },
    }),
  ];
}

function servers({ version, debug, logTraceId }: BuiltinOptions, metrics: MetricsRegistry): AnyPlugin[] {
  const everyService = { type: PluginType.grpc, id: ANY } as const;
  const routerOf = (context: PluginContext): Router => {
    const router = new Router();
    for (const service of context.all(PluginType.grpc, isGrpcService).values()) service.register(router);
    return router;
  };
  const observers = async (context: PluginContext, router: Router): Promise<readonly CallObserver[]> => {
    const made: CallObserver[] = [];
    // Each observer is paid for on every call: the log's only where it would say something.
    if (debug) made.push((await import("./call-log.ts")).logCalls(context.log, { withTraceId: logTraceId }));
    const counts = context.find(Key.grpcMetrics);
    if (counts !== undefined) {
      counts.show(router.services);
      made.push(counts.observe);
    }
    const traces = context.find(Key.grpcTraces)?.observe;
    if (traces !== undefined) made.push(traces);
    return made;
  };
  const limits = (config: PluginContext["config"]) => ({
    maxReceive: numberAt(config, "max_recv_message_size"),
    maxSend: numberAt(config, "max_send_message_size"),
  });
  return [
    plugin({
      key: Key.grpcMetrics,
      requires: [everyService],
      start: async (context) => {
        const { GrpcMetrics } = await import("./metrics/grpc.ts");
        const counts = new GrpcMetrics({ histogram: flagAt(context.config, "grpc_histogram") });
        context.cleanup.use(metrics.register(counts.collect));
        return counts;
      },
    }),
    plugin({
      key: Key.grpcTraces,
      requires: [everyService, Key.tracer],
      start: async (context) => {
        const tracer = context.find(Key.tracer);
        return tracer === undefined ? {} : { observe: (await import("./tracing.ts")).traceCalls(tracer) };
      },
    }),
    plugin({
      key: pluginKey<AsyncDisposable>(PluginType.server, "ttrpc"),
      requires: [Key.events],
      start: async (context) => {
        const [{ serveTtrpc }, { shimEventsService }, { Events }] = await Promise.all([
          import("./listeners.ts"),
          import("@stevedore/services/events"),
          import("@stevedore/wire/gen/containerd/services/events/ttrpc/v1/events_pb"),
        ]);
        const events = context.get(Key.events);
        const router = new Router().service(Events, shimEventsService({ events }));
        return context.cleanup.use(await serveTtrpc({ router, log: context.log, ...socketAt(context) }));
      },
    }),
    plugin({
      key: pluginKey<AsyncDisposable>(PluginType.monitorContainer, "restart"),
      // After the ttrpc server, where shims of what it starts tell their events.
      requires: [Key.events, Key.containersService, Key.namespacesService, Key.snapshotsService, Key.tasksService],
      start: async (context) => {
        for (const policy of ["no", "always", "on-failure", "unless-stopped"]) context.capability(policy);
        const { startRestartMonitor } = await import("./restart.ts");
        return context.cleanup.use(startRestartMonitor(context));
      },
    }),
    plugin({
      key: pluginKey<GrpcServer>(PluginType.server, "grpc-tcp"),
      requires: [everyService, Key.grpcMetrics, Key.grpcTraces],
      start: async (context) => {
        const { config } = context;
        const address = textAt(config, "address");
        if (address === "") throw new SkipPlugin("no TCP address is configured");
        const { serveGrpcTcp } = await import("./listeners.ts");
        const router = routerOf(context);
        const server = await serveGrpcTcp({
          router,
          observers: await observers(context, router),
          log: context.log,
          address,
          tls: { ca: textAt(config, "tls_ca"), cert: textAt(config, "tls_cert"), key: textAt(config, "tls_key") },
          ...limits(config),
        });
        context.cleanup.defer(async () => server.stop());
        return server;
      },
    }),
    plugin({
      key: pluginKey<AsyncDisposable>(PluginType.server, "metrics"),
      requires: [{ type: PluginType.monitorTask, id: ANY }],
      start: async (context) => {
        const address = textAt(context.config, "address");
        if (address === "") throw new SkipPlugin("no metrics address is configured");
        const [{ serveMetrics }, { processCollector }] = await Promise.all([
          import("./metrics/server.ts"),
          import("./metrics/process.ts"),
        ]);
        context.cleanup.use(metrics.register(processCollector(version)));
        return context.cleanup.use(serveMetrics({ address, registry: metrics, log: context.log }));
      },
    }),
    plugin({
      key: Key.registryEndpoint,
      requires: [Key.contentService, Key.imagesService, Key.leases, Key.events],
      start: async (context) => {
        const { config } = context;
        if (textAt(config, "address") === "") throw new SkipPlugin("no address of a registry endpoint is configured");
        const [{ serveRegistry }, { announcedImages }] = await Promise.all([
          import("@stevedore/plugins/registry-endpoint/plugin"),
          import("@stevedore/services/images"),
        ]);
        const images = announcedImages({ images: context.get(Key.imagesService), events: context.get(Key.events) });
        return context.cleanup.use(
          await serveRegistry({
            config: {
              address: textAt(config, "address"),
              namespaces: textsAt(config, "namespaces"),
              writable: flagAt(config, "writable"),
              tlsCert: textAt(config, "tls_cert"),
              tlsKey: textAt(config, "tls_key"),
              tlsCa: textAt(config, "tls_ca"),
              htpasswd: textAt(config, "htpasswd"),
            },
            stores: { images, content: context.get(Key.contentService), leases: context.get(Key.leases) },
            log: context.log,
          }),
        );
      },
    }),
    plugin({
      key: PROFILES,
      requires: [],
      start: async (): Promise<{ readonly profiles: true }> => ({ profiles: true }),
    }),
    plugin({
      key: pluginKey<AsyncDisposable>(PluginType.server, "debug"),
      requires: [PROFILES],
      start: async (context) => {
        const { address, uid, gid } = socketAt(context);
        if (address === "") throw new SkipPlugin("no debug address is configured");
        const { serveDebug } = await import("@stevedore/debug/server");
        return context.cleanup.use(
          await serveDebug({ address, uid, gid, profiles: context.find(PROFILES) !== undefined, log: context.log }),
        );
      },
    }),
    // Last: whoever reaches the daemon at its socket finds the other servers too.
    plugin({
      key: pluginKey<GrpcServer>(PluginType.server, "grpc"),
      requires: [everyService, Key.grpcMetrics, Key.grpcTraces],
      start: async (context) => {
        const { serveGrpc } = await import("./listeners.ts");
        const router = routerOf(context);
        const server = await serveGrpc({
          router,
          observers: await observers(context, router),
          log: context.log,
          ...socketAt(context),
          ...limits(context.config),
        });
        context.cleanup.defer(async () => server.stop());
        return server;
      },
    }),
  ];
}

function socketAt({ config }: PluginContext): { readonly address: string; readonly uid: number; readonly gid: number } {
  return { address: textAt(config, "address"), uid: numberAt(config, "uid"), gid: numberAt(config, "gid") };
}
