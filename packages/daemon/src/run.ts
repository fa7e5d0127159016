/** One daemon's life: configuration, plugins, sockets, signals, end. */
import { classified, createLogger, type Logger, messageOf } from "@stevedore/base";
import type { PluginRecord } from "@stevedore/core";
import { PluginType } from "@stevedore/plugins/ids";
import type { TracingConfig } from "@stevedore/wire/trace/settings";
import type { DaemonArguments } from "./arguments.ts";
import { builtins } from "./builtins.ts";
import { durationMs } from "./config/duration.ts";
import { flagAt, numberAt, textAt } from "./config/read.ts";
import { CGROUP_V1, createDeprecationLog, hostUsesCgroupV1 } from "./deprecations.ts";
import { PluginGraph } from "./graph.ts";
import { applyOomScore, joinCgroup, lockRoot, makeFolders } from "./host.ts";
import { DaemonLog, parseLogFormat, parseLogLevel } from "./log-sink.ts";
import { hostPlugin } from "./platform.ts";
import { loadSettings, type Settings } from "./settings.ts";

export type { DaemonArguments } from "./arguments.ts";

/** Log levels at which shims log their own steps too. */
const DEBUG_LEVELS: ReadonlySet<string> = new Set(["debug", "trace"]);

const BOLT_OPEN = "io.containerd.timeout.bolt.open";

/** How long the end of the daemon may take before it ends without waiting for plugins. */
const SHUTDOWN_MS = 10_000;

/**
 * Runs the daemon until it is told to end.
 * @returns the exit code: 0 after TERM or INT.
 */
export async function runDaemon(args: DaemonArguments): Promise<number> {
  const started = performance.now();
  let log = createLogger(new DaemonLog("info", "text"));
  try {
    const settings = await loadSettings(args);
    const sink = new DaemonLog(
      settings.logLevel === "" ? "info" : parseLogLevel(settings.logLevel),
      parseLogFormat(settings.logFormat),
    );
    log = createLogger(sink);
    log.info("starting containerd", { version: args.version.version, revision: args.version.revision });
    for (const warning of settings.loaded.warnings) log.warn(warning);
    await using stack = new AsyncDisposableStack();
    await makeFolders(settings);
    stack.use(await lockRoot(settings.root, openTimeoutMs(settings)));
    if (settings.cgroupPath !== "") await joinCgroup(settings.cgroupPath);
    applyOomScore(settings.oomScore, log);
    const ended = watchSignals(log);
    const graph = stack.use(await startGraph(args, settings, log));
    log.info(`containerd successfully booted in ${((performance.now() - started) / 1000).toFixed(6)}s`);
    const { notifyReady, notifyStopping } = await import("./sd-notify.ts");
    await notifyReady(log);
    const signal = await ended;
    log.info("received signal", { signal });
    await notifyStopping(log);
    await endInTime(graph, log);
    return 0;
  } catch (error) {
    log.error("failed to start daemon", { error: messageOf(error) });
    process.stderr.write(`containerd: ${messageOf(error)}\n`);
    return 1;
  }
}

/** How long to wait for the metadata of a daemon that is ending; 0, the default, is not at all. */
function openTimeoutMs({ timeouts }: Settings): number {
  return durationMs(textAt(timeouts, BOLT_OPEN), BOLT_OPEN);
}

async function startGraph(args: DaemonArguments, settings: Settings, log: Logger): Promise<PluginGraph> {
  const deprecations = createDeprecationLog();
  if (hostUsesCgroupV1()) deprecations.emit(CGROUP_V1);
  let graph: PluginGraph | undefined;
  const plugins = builtins({
    root: settings.root,
    state: settings.state,
    debug: DEBUG_LEVELS.has(settings.logLevel),
    logTraceId: settings.logTraceId,
    grpcAddress: textAt(settings.pluginConfig("io.containerd.server.v1.grpc"), "address"),
    ttrpcAddress: textAt(settings.pluginConfig("io.containerd.server.v1.ttrpc"), "address"),
    timeouts: settings.timeouts,
    streamProcessors: settings.streamProcessors,
    proxyPlugins: settings.proxyPlugins,
    tracingConfig: tracingConfigOf(settings),
    noSync: flagAt(settings.pluginConfig("io.containerd.metadata.v1.bolt"), "no_sync"),
    version: args.version,
    deprecations,
    records: (platform) => graph?.records(platform) ?? [],
  });
  const names = new Set(plugins.map(({ type, id }) => `${type}.${id}`));
  for (const [name, file] of settings.loaded.given) {
    if (!names.has(name)) log.warn(`${file}: section plugins.'${name}' has no effect in this version`);
  }
  graph = await PluginGraph.start(plugins, {
    log,
    disabled: settings.disabled,
    required: settings.required,
    configOf: settings.pluginConfig,
  });
  const broken = graph.records(hostPlugin()).find(isBrokenServer);
  if (broken === undefined) return graph;
  await graph[Symbol.asyncDispose]();
  throw classified("failed-precondition", `start ${broken.type}.${broken.id}: ${broken.initError?.message ?? ""}`);
}

/** The keys of the two tracing plugins; absent ones are unset. */
function tracingConfigOf({ pluginConfig }: Settings): TracingConfig {
  const otlp = pluginConfig("io.containerd.tracing.processor.v1.otlp");
  const service = pluginConfig("io.containerd.internal.v1.tracing");
  const text = (config: Readonly<Record<string, unknown>>, key: string): string =>
    config[key] === undefined ? "" : textAt(config, key);
  return {
    endpoint: text(otlp, "endpoint"),
    protocol: text(otlp, "protocol"),
    insecure: otlp["insecure"] === true,
    serviceName: text(service, "service_name"),
    samplingRatio: service["sampling_ratio"] === undefined ? 0 : numberAt(service, "sampling_ratio"),
  };
}

/** A daemon without a socket it was told to serve would only look alive. */
function isBrokenServer({ type, initError }: PluginRecord): boolean {
  return type === PluginType.server && initError !== undefined && !initError.message.endsWith("skip plugin");
}

/**
 * Resolves with the signal that ends the daemon. Others are handled here until then. SIGHUP is left to the kernel, as in
 * containerd: it ends the daemon at once, or nothing happens where the starter had it ignored; there is no reload.
 */
function watchSignals(log: Logger): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => resolve(signal));
  process.on("SIGUSR1", () => {
    const { rss, heapUsed } = process.memoryUsage();
    log.info("state of the daemon", {
      rss_bytes: rss,
      heap_bytes: heapUsed,
      uptime_s: Math.round(process.uptime()),
      stack: new Error("dumped on SIGUSR1").stack ?? "",
    });
  });
  // A client that went away is no reason to end.
  process.on("SIGPIPE", () => undefined);
  return promise;
}

async function endInTime(graph: PluginGraph, log: Logger): Promise<void> {
  const timer = setTimeout(() => {
    log.error("plugins did not end in time", { limit_ms: SHUTDOWN_MS });
    process.exit(1);
  }, SHUTDOWN_MS);
  try {
    await graph[Symbol.asyncDispose]();
  } finally {
    clearTimeout(timer);
  }
}
