import type { Labels } from "@stevedore/core";

/** Objects as garbage collection sees them: kind, namespace and key in one string, so that sets of them are cheap. */
export type Node = string;

/** `content-`, `snapshot-` and `image-flat`: held by a flat lease, which does not hold what they refer to. */
export type NodeKind =
  | "content"
  | "content-flat"
  | "snapshot"
  | "snapshot-flat"
  | "image"
  | "image-flat"
  | "container"
  | "lease"
  | "ingest";

/** Separates the parts of a node. Only the last part, the key, is free text. */
const SEPARATOR = "\u0000";

export interface NodeParts {
  readonly kind: NodeKind;
  readonly namespace: string;
  /** Digest, name, id or ref; for snapshots the key. */
  readonly key: string;
  /** For snapshots. */
  readonly snapshotter: string;
}

export function contentNode(namespace: string, digest: string): Node {
  return `content${SEPARATOR}${namespace}${SEPARATOR}${digest}`;
}

export function imageNode(namespace: string, name: string): Node {
  return `image${SEPARATOR}${namespace}${SEPARATOR}${name}`;
}

export function containerNode(namespace: string, id: string): Node {
  return `container${SEPARATOR}${namespace}${SEPARATOR}${id}`;
}

export function leaseNode(namespace: string, id: string): Node {
  return `lease${SEPARATOR}${namespace}${SEPARATOR}${id}`;
}

export function ingestNode(namespace: string, ref: string): Node {
  return `ingest${SEPARATOR}${namespace}${SEPARATOR}${ref}`;
}

export function snapshotNode(namespace: string, snapshotter: string, name: string): Node {
  return `snapshot${SEPARATOR}${namespace}${SEPARATOR}${snapshotter}${SEPARATOR}${name}`;
}

const KINDS: ReadonlySet<string> = new Set<NodeKind>([
  "content",
  "content-flat",
  "snapshot",
  "snapshot-flat",
  "image",
  "image-flat",
  "container",
  "lease",
  "ingest",
]);

function isKind(text: string): text is NodeKind {
  return KINDS.has(text);
}

export function partsOf(node: Node): NodeParts | undefined {
  const [kind = "", namespace = "", ...rest] = node.split(SEPARATOR);
  if (!isKind(kind)) return undefined;
  const snapshotter = kind === "snapshot" || kind === "snapshot-flat" ? (rest.shift() ?? "") : "";
  return { kind, namespace, snapshotter, key: rest.join(SEPARATOR) };
}

/** The same object held by a flat lease. */
export function flat(node: Node): Node {
  const at = node.indexOf(SEPARATOR);
  const kind = node.slice(0, at);
  return kind === "content" || kind === "snapshot" || kind === "image" ? `${kind}-flat${node.slice(at)}` : node;
}

/** The object itself, whoever holds it. */
export function unflat(node: Node): Node {
  const at = node.indexOf(SEPARATOR);
  return node.startsWith("-flat", at - 5) ? node.slice(0, at - 5) + node.slice(at) : node;
}

/** The node a lease resource names; undefined for a type nothing collects. */
export function resourceNode(namespace: string, type: string, id: string): Node | undefined {
  if (type === "content") return contentNode(namespace, id);
  if (type === "ingests") return ingestNode(namespace, id);
  if (type === "images") return imageNode(namespace, id);
  return type.startsWith("snapshots/") ? snapshotNode(namespace, type.slice("snapshots/".length), id) : undefined;
}

/** What the labels of an object say to the collector. */
export interface LabelEdges {
  /** Objects this one keeps. */
  readonly references: readonly Node[];
  /** Objects that keep this one. */
  readonly backReferences: readonly Node[];
  readonly root: boolean;
  /** Snapshots this one keeps while they were used as the condition says. */
  readonly conditional: readonly { readonly node: Node; readonly holds: (usedAt: number, now: number) => boolean }[];
  /** Milliseconds since the epoch. */
  readonly usedAt: number | undefined;
}

const PREFIX = "containerd.io/gc.";
const REFERENCE = "containerd.io/gc.ref.";
const BACK_REFERENCE = "containerd.io/gc.bref.";
const ROOT = "containerd.io/gc.root";
const CONDITION = "containerd.io/gc.cond.snapshot";
const USED_AT = "containerd.io/gc.cond.value-usedat";
export const EXPIRE_LABEL = "containerd.io/gc.expire";
export const FLAT_LABEL = "containerd.io/gc.flat";

const NO_EDGES: LabelEdges = {
  references: [],
  backReferences: [],
  root: false,
  conditional: [],
  usedAt: undefined,
};

export function labelEdges(namespace: string, labels: Labels): LabelEdges {
  let edges: { -readonly [K in keyof LabelEdges]: LabelEdges[K] } | undefined;
  for (const [key, value] of Object.entries(labels)) {
    if (!key.startsWith(PREFIX)) continue;
    edges ??= { ...NO_EDGES };
    if (key.startsWith(REFERENCE)) {
      const node = referred(namespace, key.slice(REFERENCE.length), value);
      if (node !== undefined) edges.references = [...edges.references, node];
    } else if (key.startsWith(BACK_REFERENCE)) {
      const node = referred(namespace, key.slice(BACK_REFERENCE.length), value);
      if (node !== undefined) edges.backReferences = [...edges.backReferences, node];
    } else if (key.startsWith(ROOT)) edges.root = true;
    else if (key.startsWith(USED_AT)) edges.usedAt = parseTime(value);
    else if (key.startsWith(CONDITION)) {
      edges.conditional = [...edges.conditional, ...conditions(namespace, key.slice(CONDITION.length), value)];
    }
  }
  return edges ?? NO_EDGES;
}

/** `content`, `content.0`, `content/config`, `image`, `container`, `snapshot.<snapshotter>[/name]`. */
function referred(namespace: string, what: string, value: string): Node | undefined {
  if (what.startsWith("snapshot.")) {
    const [snapshotter = ""] = what.slice("snapshot.".length).split("/");
    return snapshotNode(namespace, snapshotter, value);
  }
  const [, kind, end] = /^(content|image|container)(.?)/s.exec(what) ?? [];
  if (kind === undefined || (end !== "" && end !== "." && end !== "/")) return undefined;
  if (kind === "content") return contentNode(namespace, value);
  return kind === "image" ? imageNode(namespace, value) : containerNode(namespace, value);
}

function* conditions(
  namespace: string,
  suffix: string,
  value: string,
): Generator<{ node: Node; holds: (usedAt: number, now: number) => boolean }> {
  const [snapshotter = ""] = suffix.replace(/^[./]+/, "").split("/");
  const bar = value.indexOf("|");
  if (bar < 0) return;
  const node = snapshotNode(namespace, snapshotter, value.slice(bar + 1));
  for (const condition of value.slice(0, bar).split(",")) {
    const [, operator, text] = /^usedat([<>])(.*)$/s.exec(condition) ?? [];
    const limit = text === undefined ? undefined : parseGoDuration(text);
    if (limit === undefined) continue;
    yield {
      node,
      holds: operator === "<" ? (usedAt, now) => now - usedAt < limit : (usedAt, now) => now - usedAt > limit,
    };
  }
}

const UNIT_MS: ReadonlyMap<string, number> = new Map([
  ["ns", 1e-6],
  ["us", 1e-3],
  ["µs", 1e-3],
  ["μs", 1e-3],
  ["ms", 1],
  ["s", 1000],
  ["m", 60_000],
  ["h", 3_600_000],
]);

/** Milliseconds of a duration in Go's notation (`1h30m`), undefined for another text. */
function parseGoDuration(text: string): number | undefined {
  const sign = text.startsWith("-") ? -1 : 1;
  const rest = text.replace(/^[-+]/, "");
  if (rest === "0") return 0;
  let total = 0;
  let length = 0;
  for (const [all, amount, unit = ""] of rest.matchAll(/(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)/gy)) {
    total += Number(amount) * (UNIT_MS.get(unit) ?? Number.NaN);
    length += all.length;
  }
  return length === rest.length && length > 0 ? sign * total : undefined;
}

const RFC3339 = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:[.,]\d+)?(?:Z|[+-]\d{2}:\d{2})$/;

/** Milliseconds since the epoch of an RFC 3339 time, undefined for another text. */
export function parseTime(text: string): number | undefined {
  if (!RFC3339.test(text)) return undefined;
  const time = Date.parse(text.replace(",", "."));
  return Number.isNaN(time) ? undefined : time;
}

/** Whether the labels carry an expiration that has passed. One that cannot be read does not count. */
export function isExpired(labels: Labels, now: number): boolean {
  const text = Object.hasOwn(labels, EXPIRE_LABEL) ? labels[EXPIRE_LABEL] : undefined;
  const time = text === undefined ? undefined : parseTime(text);
  return time !== undefined && now > time;
}
