/**
 * The plugins of the daemon, in the order in which containerd 2.3.4 lists its own. Each entry says what it needs and how
 * it starts; the code behind it loads when it starts. This is the only place that names implementations.
 */
import { join } from "node:path";
import { classified, isErrorClass } from "@stevedore/base";
import type { ContentStore, DeprecationLog, Differ, PluginRecord, Snapshotter } from "@stevedore/core";
import { PluginType } from "@stevedore/plugins/ids";
import type { GrpcServer } from "@stevedore/wire/grpc/server";
import { Router } from "@stevedore/wire/rpc/index";
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
import { type GrpcService, isGrpcService, Key } from "./keys.ts";
import { MetricsRegistry } from "./metrics/registry.ts";
import { hostPlugin, pluginPlatform } from "./platform.ts";
import { workerCommand } from "./self.ts";

export interface BuiltinOptions {
  readonly root: string;
  readonly state: string;
  /** Whether shims log at debug level. */
  readonly debug: boolean;
  /** Sockets that shims are told of. */
  readonly grpcAddress: string;
  readonly ttrpcAddress: string;
  /** Go durations by name. */
  readonly timeouts: Readonly<Record<string, unknown>>;
  /** `[stream_processors]` by id. */
  readonly streamProcessors: Readonly<Record<string, unknown>>;
  readonly proxyPlugins: Readonly<Record<string, unknown>>;
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
      key: Key.events,
      requires: [],
      start: async (context) => {
        const [{ createEventExchange }, { eventField }] = await Promise.all([
          import("@stevedore/plugins/events/impl"),
          import("./event-field.ts"),
        ]);
        return createEventExchange({ eventField, log: context.log });
      },
    }),
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
          onCollection: (stats) => metrics.count(COLLECTIONS, { status: stats === undefined ? "fail" : "success" }),
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
        const [{ createOverlaySnapshotter }, { overlayCapabilities }, { createSnapshotRecords }] = await Promise.all([
          import("@stevedore/plugins/snapshot-overlay/impl"),
          import("@stevedore/plugins/snapshot-overlay/plugin"),
          import("@stevedore/plugins/metadata/snapshot-records"),
        ]);
        const { config } = context;
        for (const name of overlayCapabilities({ slowChown: flagAt(config, "slow_chown"), idmappedMounts: false })) {
          context.capability(name);
        }
        const snapshotter = await createOverlaySnapshotter({
          root: rootOf(context, "overlayfs"),
          records: createSnapshotRecords(context.get(Key.database), "overlayfs"),
          upperdirLabel: flagAt(config, "upperdir_label"),
          syncRemove: flagAt(config, "sync_remove"),
          mountOptions: textsAt(config, "mount_options"),
          remapIds: false,
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
      context.export("address", textAt(config, "address"));
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
      requires: [Key.metadata],
      start: async (context) => context.get(Key.metadata).containers,
    }),
    plugin({
      key: Key.contentService,
      requires: [Key.metadata],
      start: async (context) => context.get(Key.metadata).content,
    }),
    plugin({
      key: Key.diffService,
      requires: [{ type: PluginType.differ, id: ANY }],
      start: async (context) =>
        firstCapable(context.all(PluginType.differ, isDifferPlugin), {
          order: textsAt(context.config, "default"),
          syncFs: flagAt(context.config, "sync_fs"),
        }),
    }),
    plugin({
      key: Key.imagesService,
      requires: [Key.metadata],
      start: async (context) => context.get(Key.metadata).images,
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
      requires: [Key.metadata],
      start: async (context) => context.get(Key.metadata).namespaces,
    }),
    plugin({
      key: Key.snapshotsService,
      requires: [Key.metadata],
      start: async (context) => context.get(Key.metadata).snapshotters,
    }),
    plugin({ key: Key.leases, requires: [Key.metadata], start: async (context) => context.get(Key.metadata).leases }),
    plugin({
      key: Key.shims,
      requires: [Key.events, Key.metadata],
      start: async (context) => {
        const { startTaskManager } = await import("./runtime.ts");
        return startTaskManager({
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
        return context.get(Key.shims);
      },
    }),
    plugin({ key: Key.tasksService, requires: [Key.runtime], start: async (context) => context.get(Key.runtime) }),
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
        const [{ eventsService }, { Events }] = await Promise.all([
          import("@stevedore/services/events"),
          import("@stevedore/wire/gen/containerd/services/events/v1/events_pb"),
        ]);
        const service = eventsService({ events: context.get(Key.events) });
        return (router) => void router.service(Events, service);
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
  help: "counter of number of garbage collections",
} as const;

function monitors(metrics: MetricsRegistry): AnyPlugin[] {
  return [
    plugin({
      key: pluginKey<object>(PluginType.monitorTask, "cgroups"),
      requires: [Key.metadata, Key.runtime],
      platformBound: true,
      start: async (context) => {
        if (flagAt(context.config, "no_prometheus")) return {};
        const { containerCollector } = await import("./metrics/collectors.ts");
        const { namespaces, containers } = context.get(Key.metadata);
        const tasks = context.get(Key.runtime);
        context.cleanup.use(metrics.register(containerCollector({ namespaces, containers, tasks })));
        return {};
      },
    }),
  ];
}

function servers({ version }: BuiltinOptions, metrics: MetricsRegistry): AnyPlugin[] {
  const everyService = { type: PluginType.grpc, id: ANY } as const;
  const routerOf = (context: PluginContext): Router => {
    const router = new Router();
    for (const service of context.all(PluginType.grpc, isGrpcService).values()) service.register(router);
    return router;
  };
  const limits = (config: PluginContext["config"]) => ({
    maxReceive: numberAt(config, "max_recv_message_size"),
    maxSend: numberAt(config, "max_send_message_size"),
  });
  return [
    plugin({
      key: pluginKey<AsyncDisposable>(PluginType.server, "ttrpc"),
      requires: [Key.events],
      start: async (context) => {
        const [{ serveTtrpc }, { shimEventsService }, { withoutRepeats }, { Events }] = await Promise.all([
          import("./listeners.ts"),
          import("@stevedore/services/events"),
          import("@stevedore/plugins/shim-manager/repeated-events"),
          import("@stevedore/wire/gen/containerd/services/events/ttrpc/v1/events_pb"),
        ]);
        const events = withoutRepeats(context.get(Key.events));
        const router = new Router().service(Events, shimEventsService({ events }));
        return context.cleanup.use(await serveTtrpc({ router, log: context.log, ...socketAt(context) }));
      },
    }),
    plugin({
      key: pluginKey<GrpcServer>(PluginType.server, "grpc"),
      requires: [everyService],
      start: async (context) => {
        const { serveGrpc } = await import("./listeners.ts");
        const server = await serveGrpc({
          router: routerOf(context),
          log: context.log,
          ...socketAt(context),
          ...limits(context.config),
        });
        context.cleanup.defer(async () => server.stop());
        return server;
      },
    }),
    plugin({
      key: pluginKey<GrpcServer>(PluginType.server, "grpc-tcp"),
      requires: [everyService],
      start: async (context) => {
        const { config } = context;
        const address = textAt(config, "address");
        if (address === "") throw new SkipPlugin("no TCP address is configured");
        const { serveGrpcTcp } = await import("./listeners.ts");
        const server = await serveGrpcTcp({
          router: routerOf(context),
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
        const [{ serveMetrics }, { daemonCollector }] = await Promise.all([
          import("./metrics/server.ts"),
          import("./metrics/collectors.ts"),
        ]);
        context.cleanup.use(metrics.register(daemonCollector(version)));
        return context.cleanup.use(serveMetrics({ address, registry: metrics, log: context.log }));
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
  ];
}

function socketAt({ config }: PluginContext): { readonly address: string; readonly uid: number; readonly gid: number } {
  return { address: textAt(config, "address"), uid: numberAt(config, "uid"), gid: numberAt(config, "gid") };
}
