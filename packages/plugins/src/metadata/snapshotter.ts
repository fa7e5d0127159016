import { classified, createLogger, isErrorClass, type Logger, messageOf, type RequestContext } from "@stevedore/base";
import { microsOf, momentOfMicros } from "@stevedore/base/moment";
import {
  type FieldMask,
  goQuote,
  type Labels,
  type Mount,
  matcher,
  type SnapshotInfo,
  type SnapshotOptions,
  type Snapshotter,
  type SnapshotUsage,
  snapshotField,
} from "@stevedore/core";
import type { MetadataDatabase } from "./database.ts";
import { checkLabels } from "./procedures/content.ts";
import type { Scope } from "./procedures/shared.ts";
import type { SnapshotRow } from "./procedures/snapshots.ts";
import { decodeLabels } from "./rows.ts";
import { scopeOf } from "./scope.ts";
import { statement } from "./statement.ts";

/** A client that unpacks asks for this committed snapshot: a backend that has or can get it answers already-exists. */
const TARGET_LABEL = "containerd.io/snapshot.ref";
/** Labels with this prefix, and the one above, are handed down to the backend. */
const INHERITED_PREFIX = "containerd.io/snapshot/";
/** Rows read at once while walking. */
const PAGE = 100;

const select = statement<SnapshotRow, [string, string, string]>(
  "SELECT * FROM snapshots WHERE namespace = ? AND snapshotter = ? AND name = ?",
);
const page = statement<SnapshotRow, [string, string, string, number]>(
  "SELECT * FROM snapshots WHERE namespace = ? AND snapshotter = ? AND name > ? ORDER BY name LIMIT ?",
);
const unfinished = statement<{ namespace: string; key: string; backend_name: string }, [string]>(
  "SELECT namespace, key, backend_name FROM snapshot_commits WHERE snapshotter = ?",
);

export interface MetadataSnapshotterOptions {
  readonly database: MetadataDatabase;
  /** The backend's name, as in lease resources and GC labels. */
  readonly name: string;
  readonly backend: Snapshotter;
  /** Backend keys of snapshots that are being made and have no record yet; shared with the collector. */
  readonly inFlight: Set<string>;
  /** Tells the collector that the backend has to remove a snapshot. */
  readonly discard: (backendKey: string) => void;
  readonly log?: Logger;
}

/** Snapshots by namespace over a backend that has none: names, labels, parents and leases of each. */
export class MetadataSnapshotter implements Snapshotter {
  readonly #database: MetadataDatabase;
  readonly #name: string;
  readonly #backend: Snapshotter;
  readonly #inFlight: Set<string>;
  readonly #discard: (backendKey: string) => void;
  readonly #log: Logger;
  /** Commits this process is in the middle of: `namespace\0key`. */
  readonly #committing = new Set<string>();
  #recovered: Promise<void> | undefined;
  #lastOperation = 0;

  constructor(options: MetadataSnapshotterOptions) {
    this.#database = options.database;
    this.#name = options.name;
    this.#backend = options.backend;
    this.#inFlight = options.inFlight;
    this.#discard = options.discard;
    this.#log = (options.log ?? createLogger()).with({ snapshotter: options.name });
  }

  async stat(context: RequestContext, name: string): Promise<SnapshotInfo> {
    const row = this.#row(scopeOf(context), name);
    return overlaid(await this.#backend.stat(context, row.backend_key), row);
  }

  #row(scope: Scope, name: string): SnapshotRow {
    const row = select(this.#database.reader).get(scope.namespace, this.#name, name);
    if (row === null) throw classified("not-found", `snapshot ${name} does not exist: not found`);
    return row;
  }

  async update(
    context: RequestContext,
    info: Pick<SnapshotInfo, "name" | "labels">,
    fields: FieldMask,
  ): Promise<SnapshotInfo> {
    if (info.name === "") throw classified("invalid-argument", "invalid argument");
    const row = await this.#database.call("updateSnapshot", {
      scope: scopeOf(context),
      snapshotter: this.#name,
      name: info.name,
      labels: info.labels,
      fields,
    });
    const labels = inherited(decodeLabels(row.labels));
    return overlaid(await this.#backend.update(context, { name: row.backend_key, labels }, fields), row);
  }

  async usage(context: RequestContext, name: string): Promise<SnapshotUsage> {
    return this.#backend.usage(context, this.#row(scopeOf(context), name).backend_key);
  }

  async mounts(context: RequestContext, key: string): Promise<readonly Mount[]> {
    return this.#backend.mounts(context, this.#row(scopeOf(context), key).backend_key);
  }

  prepare(
    context: RequestContext,
    key: string,
    options: SnapshotOptions & { readonly parent: string },
  ): Promise<readonly Mount[]> {
    return this.#make(context, { ...options, key, readonly: false });
  }

  view(
    context: RequestContext,
    key: string,
    options: SnapshotOptions & { readonly parent: string },
  ): Promise<readonly Mount[]> {
    return this.#make(context, { ...options, key, readonly: true });
  }

  async #make(
    context: RequestContext,
    wanted: SnapshotOptions & { readonly key: string; readonly parent: string; readonly readonly: boolean },
  ): Promise<readonly Mount[]> {
    const scope = scopeOf(context);
    const { key, parent, labels = {} } = wanted;
    checkLabels(labels);
    const target = Object.hasOwn(labels, TARGET_LABEL) ? (labels[TARGET_LABEL] ?? "") : "";
    const operation = ++this.#lastOperation;
    const on = { scope, snapshotter: this.#name };
    const begun = await this.#database.call("beginPrepare", { ...on, key, parent, target, operation });
    if (begun.exists !== undefined) throw classified("already-exists", begun.exists);
    const { backendKey, backendParent } = begun;

    await using undo = new AsyncDisposableStack();
    let pinned = parent !== "";
    undo.defer(async () => {
      if (pinned) await this.#database.call("releasePins", { operation });
    });
    this.#inFlight.add(backendKey);
    undo.defer(() => void this.#inFlight.delete(backendKey));
    let mounts: readonly Mount[];
    try {
      const backendOptions = { parent: backendParent, labels: inherited(labels) };
      mounts = await (wanted.readonly
        ? this.#backend.view(context, backendKey, backendOptions)
        : this.#backend.prepare(context, backendKey, backendOptions));
    } catch (error) {
      if (!isErrorClass(error, "already-exists")) throw error;
      if (target === "") {
        // A new key cannot be taken: clients must not read this as their own snapshot being there.
        throw classified("unknown", `unexpected error from snapshotter: ${messageOf(error)}: unknown`);
      }
      await this.#adopt(context, { on, target, parent, backendParent, labels, operation });
      throw classified("already-exists", `target snapshot ${goQuote(target)} from snapshotter: already exists`);
    }
    // Whatever goes wrong from here on, the backend's snapshot must not stay without a record.
    const recorded = await this.#database
      .call("endPrepare", { ...on, key, parent, backendKey, backendParent, labels, operation }, context)
      .catch((error: unknown) => {
        this.#discard(backendKey);
        throw error;
      });
    // The record holds the parent from here on.
    pinned = false;
    if (recorded.existed) {
      this.#discard(backendKey);
      throw classified("already-exists", `snapshot ${goQuote(key)}: already exists`);
    }
    return mounts;
  }

  /** Records a committed snapshot the backend had by itself (a lazily pulled layer). */
  async #adopt(
    context: RequestContext,
    wanted: {
      readonly on: { readonly scope: Scope; readonly snapshotter: string };
      readonly target: string;
      readonly parent: string;
      readonly backendParent: string;
      readonly labels: Labels;
      readonly operation: number;
    },
  ): Promise<void> {
    const { target, backendParent } = wanted;
    const filter = `labels.${goQuote(TARGET_LABEL)}==${goQuote(target)},parent==${goQuote(backendParent)}`;
    for await (const info of this.#backend.walk(context, [filter])) {
      // Some backends do not filter.
      if (info.kind !== "committed" || info.labels[TARGET_LABEL] !== target || info.parent !== backendParent) continue;
      await this.#database.call("endPrepare", {
        ...wanted.on,
        key: target,
        parent: wanted.parent,
        backendKey: info.name,
        backendParent: info.parent,
        labels: { ...info.labels, ...wanted.labels },
        createdAt: microsOf(info.createdAt),
        updatedAt: microsOf(info.updatedAt),
        operation: wanted.operation,
      });
      return;
    }
    throw classified("not-found", `target snapshot ${goQuote(target)} in backend: not found`);
  }

  async commit(
    context: RequestContext,
    name: string,
    options: SnapshotOptions & { readonly key: string; readonly parent?: string },
  ): Promise<void> {
    const scope = scopeOf(context);
    const { key, labels = {} } = options;
    checkLabels(labels);
    await this.recover();
    const on = { scope, snapshotter: this.#name };
    const begun = await this.#database.call("beginCommit", { ...on, key, name, parent: options.parent ?? "", labels });
    if (begun.exists !== undefined) throw classified("already-exists", begun.exists);
    const { backendKey, backendName, rebase } = begun;
    const mark = `${scope.namespace}\0${key}`;
    this.#committing.add(mark);
    try {
      await this.#backend.commit(context, backendName, {
        key: backendKey,
        labels: inherited(labels),
        ...(rebase === "" ? {} : { parent: rebase }),
      });
    } catch (error) {
      await this.#settleFailedCommit({ ...on, key }, backendName);
      throw error;
    } finally {
      this.#committing.delete(mark);
    }
    const { existed } = await this.#database.call("endCommit", { ...on, key, committed: true }, context);
    if (existed) {
      this.#discard(backendName);
      throw classified("already-exists", `snapshot ${goQuote(name)}: already exists`);
    }
  }

  /** A call that failed may have been carried out: the backend's own records decide. */
  async #settleFailedCommit(
    commit: { readonly scope: Scope; readonly snapshotter: string; readonly key: string },
    backendName: string,
  ): Promise<void> {
    try {
      const committed = await this.#backendHas(backendName);
      await this.#database.call("endCommit", { ...commit, committed });
    } catch (error) {
      this.#log.warn("outcome of a snapshot commit is not known yet", { key: commit.key, error: messageOf(error) });
      this.#recovered = undefined;
    }
  }

  async #backendHas(name: string): Promise<boolean> {
    try {
      await this.#backend.stat({ signal: new AbortController().signal }, name);
      return true;
    } catch (error) {
      if (isErrorClass(error, "not-found")) return false;
      throw error;
    }
  }

  /** Settles commits that a crash interrupted. Once is enough, unless the backend could not be asked. */
  async recover(): Promise<void> {
    this.#recovered ??= this.#recoverAll();
    try {
      await this.#recovered;
    } catch (error) {
      this.#recovered = undefined;
      throw error;
    }
  }

  async #recoverAll(): Promise<void> {
    for (const row of unfinished(this.#database.reader).all(this.#name)) {
      if (this.#committing.has(`${row.namespace}\0${row.key}`)) continue;
      const committed = await this.#backendHas(row.backend_name);
      this.#log.info("settled an interrupted snapshot commit", { key: row.key, committed });
      const scope = { namespace: row.namespace, lease: undefined };
      const { existed } = await this.#database.call("endCommit", {
        scope,
        snapshotter: this.#name,
        key: row.key,
        committed,
      });
      if (existed) this.#discard(row.backend_name);
    }
  }

  async remove(context: RequestContext, name: string): Promise<void> {
    const scope = scopeOf(context);
    await this.recover();
    const { backendKey } = await this.#database.call(
      "removeSnapshot",
      { scope, snapshotter: this.#name, name },
      context,
    );
    this.#discard(backendKey);
  }

  async *walk(context: RequestContext, filters: readonly string[]): AsyncIterable<SnapshotInfo> {
    const { namespace } = scopeOf(context);
    const match = matcher(filters, snapshotField);
    for (let after = ""; ; ) {
      context.signal.throwIfAborted();
      const rows = page(this.#database.reader).all(namespace, this.#name, after, PAGE);
      for (const row of rows) {
        after = row.name;
        const info = await this.#statRow(context, row);
        if (info !== undefined && match(info)) yield info;
      }
      if (rows.length < PAGE) return;
    }
  }

  async #statRow(context: RequestContext, row: SnapshotRow): Promise<SnapshotInfo | undefined> {
    try {
      return overlaid(await this.#backend.stat(context, row.backend_key), row);
    } catch (error) {
      if (isErrorClass(error, "not-found")) return undefined;
      throw error;
    }
  }

  cleanup(context: RequestContext): Promise<void> {
    return this.#backend.cleanup(context);
  }
}

/** The namespace's view of a backend's snapshot: kind from below, everything else from the record. */
function overlaid(info: SnapshotInfo, row: SnapshotRow): SnapshotInfo {
  return {
    kind: info.kind,
    name: row.name,
    parent: row.parent,
    labels: { ...info.labels, ...decodeLabels(row.labels) },
    createdAt: momentOfMicros(row.created_at),
    updatedAt: momentOfMicros(row.updated_at),
  };
}

function inherited(labels: Labels): Labels {
  return Object.fromEntries(
    Object.entries(labels).filter(([key]) => key === TARGET_LABEL || key.startsWith(INHERITED_PREFIX)),
  );
}
