/**
 * The plugin graph: what the daemon is made of, in which order it starts, and what clients are told of it. Registration
 * is a list; a plugin finds the others it needs by typed key, so that nothing is cast and nothing registers itself.
 */
import { classified, type Logger, messageOf } from "@stevedore/base";
import type { PluginRecord } from "@stevedore/core";
import { pluginName } from "@stevedore/plugins/ids";

/** Names one plugin, or with the id `*` all of a type. */
export interface PluginName {
  readonly type: string;
  readonly id: string;
}

/** Names one plugin and the type of what it makes. */
export interface PluginKey<T> extends PluginName {
  /** Never set; it only carries the type. */
  readonly made?: (value: T) => T;
}

export function pluginKey<T>(type: string, id: string): PluginKey<T> {
  return { type, id };
}

/** Told by a plugin that it has nothing to do here; it shows as `skip` and is no failure. */
export class SkipPlugin extends Error {
  override readonly name = "SkipPlugin";
  constructor(reason: string) {
    super(`${reason}: skip plugin`);
  }
}

export type PluginPlatform = PluginRecord["platforms"][number];

/** What a plugin gets while it starts. */
export interface PluginContext {
  /** The plugin's own section of the configuration, defaults filled in. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly log: Logger;
  /** Undone, last first, when the daemon stops or when the plugin's start fails. */
  readonly cleanup: AsyncDisposableStack;
  /** A plugin that this one requires. @throws failed-precondition when it did not start */
  get<T>(key: PluginKey<T>): T;
  /** As {@link get}, undefined when it is disabled, skipped or failed. */
  find<T>(key: PluginKey<T>): T | undefined;
  /** All started plugins of a type, by id. */
  all<T>(type: string, is: (value: unknown) => value is T): ReadonlyMap<string, T>;
  /** Tells clients more about this plugin. */
  export(key: string, value: string): void;
  capability(name: string): void;
  /** Shows these platforms in place of the host's. */
  platforms(shown: readonly PluginPlatform[]): void;
}

export interface PluginDefinition<T> {
  readonly key: PluginKey<T>;
  /** Plugins, or whole types, that start before this one. */
  readonly requires: readonly PluginName[];
  /** Whether it depends on the platform; such plugins show it. */
  readonly platformBound?: boolean;
  readonly start: (context: PluginContext) => Promise<T>;
}

/** A definition whose type is closed over, so that all fit one list. */
export interface AnyPlugin {
  readonly type: string;
  readonly id: string;
  readonly requires: readonly PluginName[];
  readonly platformBound: boolean;
  readonly start: (context: PluginContext, store: (value: unknown) => void) => Promise<void>;
}

export function plugin<T>(definition: PluginDefinition<T>): AnyPlugin {
  return {
    type: definition.key.type,
    id: definition.key.id,
    requires: definition.requires,
    platformBound: definition.platformBound ?? false,
    start: async (context, store) => store(await definition.start(context)),
  };
}

type State =
  | { readonly kind: "ok"; readonly value: unknown }
  | { readonly kind: "skip"; readonly message: string }
  | { readonly kind: "error"; readonly message: string };

interface Started {
  readonly plugin: AnyPlugin;
  readonly state: State;
  readonly exports: Readonly<Record<string, string>>;
  readonly capabilities: readonly string[];
  readonly platforms?: readonly PluginPlatform[];
}

export interface GraphOptions {
  readonly log: Logger;
  /** Full names of plugins that must not start. */
  readonly disabled: readonly string[];
  /** Full names of plugins without which the daemon does not start. */
  readonly required: readonly string[];
  /** A plugin's section of the configuration, defaults filled in. */
  readonly configOf: (name: string) => Readonly<Record<string, unknown>>;
}

/** gRPC status code Unknown, which the peer reports for every plugin that did not start. */
const CODE_UNKNOWN = 2;

/** A started graph. Dispose it to stop all plugins, last started first. */
export class PluginGraph implements AsyncDisposable {
  readonly #started = new Map<string, Started>();
  readonly #cleanup = new AsyncDisposableStack();

  /**
   * Starts the plugins in order of their requirements. One that fails does not stop others unless they require it.
   * @throws failed-precondition when a plugin of `required` is unknown or did not start; invalid-argument for a cycle
   */
  static async start(plugins: readonly AnyPlugin[], options: GraphOptions): Promise<PluginGraph> {
    const graph = new PluginGraph();
    try {
      const ordered = inOrder(plugins);
      // Before anything starts: a server that already answers would tell clients of a daemon that is not to be.
      const names = new Set(ordered.map(({ type, id }) => pluginName(type, id)));
      graph.#checkRequired(options.required.filter((name) => options.disabled.includes(name) || !names.has(name)));
      for (const next of ordered) {
        await graph.#startOne(next, options);
        const name = pluginName(next.type, next.id);
        if (options.required.includes(name)) graph.#checkRequired([name]);
      }
      return graph;
    } catch (error) {
      await graph[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #startOne(next: AnyPlugin, options: GraphOptions): Promise<void> {
    const name = pluginName(next.type, next.id);
    if (options.disabled.includes(name)) {
      options.log.info(`skip loading plugin ${JSON.stringify(name)}, disabled by config`, {
        id: name,
        type: next.type,
      });
      return;
    }
    options.log.info("loading plugin", { id: name, type: next.type });
    const exports: Record<string, string> = {};
    const capabilities: string[] = [];
    let platforms: readonly PluginPlatform[] | undefined;
    let state: State = { kind: "error", message: "not started" };
    const cleanup = new AsyncDisposableStack();
    const context: PluginContext = {
      config: options.configOf(name),
      log: options.log,
      cleanup,
      get: (key) => this.get(key),
      find: (key) => this.find(key),
      all: (type, is) => this.all(type, is),
      export: (key, value) => {
        exports[key] = value;
      },
      capability: (capability) => capabilities.push(capability),
      platforms: (shown) => {
        platforms = shown;
      },
    };
    try {
      await next.start(context, (value) => {
        state = { kind: "ok", value };
      });
      this.#cleanup.use(cleanup);
    } catch (error) {
      await cleanup[Symbol.asyncDispose]();
      if (error instanceof SkipPlugin) {
        options.log.info("skip loading plugin", { id: name, type: next.type, error: error.message });
        state = { kind: "skip", message: error.message };
      } else {
        options.log.warn("failed to load plugin", { id: name, type: next.type, error: messageOf(error) });
        state = { kind: "error", message: messageOf(error) };
      }
    }
    const shown = platforms === undefined ? {} : { platforms };
    this.#started.set(name, { plugin: next, state, exports, capabilities, ...shown });
  }

  /** @throws failed-precondition when one of these did not start */
  #checkRequired(required: readonly string[]): void {
    const missing = required.filter((name) => this.#started.get(name)?.state.kind !== "ok");
    if (missing.length === 0) return;
    const found = missing.map((name) => {
      const state = this.#started.get(name)?.state;
      if (state === undefined) return `${name} (unknown or disabled)`;
      return state.kind === "ok" ? name : `${name} (${state.message})`;
    });
    throw classified("failed-precondition", `load required plugin ${found.join(", ")}: failed precondition`);
  }

  get<T>(key: PluginKey<T>): T {
    const found = this.find(key);
    if (found === undefined) {
      const state = this.#started.get(pluginName(key.type, key.id))?.state;
      const why = state === undefined || state.kind === "ok" ? "not loaded" : state.message;
      throw classified("failed-precondition", `plugin ${pluginName(key.type, key.id)} is needed: ${why}`);
    }
    return found;
  }

  find<T>(key: PluginKey<T>): T | undefined {
    const state = this.#started.get(pluginName(key.type, key.id))?.state;
    return state?.kind === "ok" ? valueOf(key, state.value) : undefined;
  }

  all<T>(type: string, is: (value: unknown) => value is T): ReadonlyMap<string, T> {
    const found = new Map<string, T>();
    for (const { plugin: of, state } of this.#started.values()) {
      if (of.type === type && state.kind === "ok" && is(state.value)) found.set(of.id, state.value);
    }
    return found;
  }

  /** What clients are told, in order of start. */
  records(platform: PluginPlatform): PluginRecord[] {
    const shown = [...this.#started.values()].filter(({ plugin: of }) => !of.type.startsWith("stevedore."));
    return shown.map(({ plugin: of, state, exports, capabilities, platforms }) => ({
      type: of.type,
      id: of.id,
      requires: [...new Set(of.requires.map(({ type }) => type))].filter((type) => !type.startsWith("stevedore.")),
      platforms: platforms ?? (of.platformBound ? [platform] : []),
      exports,
      capabilities,
      ...(state.kind === "ok" ? {} : { initError: { code: CODE_UNKNOWN, message: state.message } }),
    }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cleanup[Symbol.asyncDispose]();
  }
}

// A key is made together with its plugin, by pluginKey<T>() and plugin<T>(), so the value stored under its name is a T.
function valueOf<T>(key: PluginKey<T>, value: unknown): T;
function valueOf(_key: unknown, value: unknown): unknown {
  return value;
}

/** Plugins so that each comes after all it requires; the order of the list decides otherwise. @throws invalid-argument */
export function inOrder(plugins: readonly AnyPlugin[]): AnyPlugin[] {
  const ordered: AnyPlugin[] = [];
  const done = new Set<AnyPlugin>();
  const open = new Set<AnyPlugin>();
  const visit = (next: AnyPlugin, path: readonly string[]): void => {
    if (done.has(next)) return;
    const here = [...path, pluginName(next.type, next.id)];
    if (open.has(next)) throw classified("invalid-argument", `plugins require each other: ${here.join(" -> ")}`);
    open.add(next);
    for (const required of next.requires) {
      for (const other of plugins) {
        const matches = other.type === required.type && (required.id === "*" || other.id === required.id);
        if (matches && other !== next) visit(other, here);
      }
    }
    open.delete(next);
    done.add(next);
    ordered.push(next);
  };
  for (const next of plugins) visit(next, []);
  return ordered;
}
