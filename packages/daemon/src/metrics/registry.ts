/** Figures for Prometheus, in its text format. */

export type MetricLabels = Readonly<Record<string, string>>;
export type MetricKind = "gauge" | "counter";

export interface MetricMeta {
  readonly name: string;
  readonly help: string;
  readonly kind: MetricKind;
}

/** One answer to a scrape: values by metric, each metric with its help. */
export class MetricPage {
  readonly #metrics = new Map<string, { readonly meta: MetricMeta; readonly lines: string[] }>();

  add(meta: MetricMeta, labels: MetricLabels, value: number | bigint): void {
    let metric = this.#metrics.get(meta.name);
    if (metric === undefined) {
      metric = { meta, lines: [] };
      this.#metrics.set(meta.name, metric);
    }
    metric.lines.push(`${meta.name}${labelText(labels)} ${Number(value)}\n`);
  }

  /** The page, metrics by name, as the peer orders them. */
  text(): string {
    return [...this.#metrics.values()]
      .toSorted((a, b) => (a.meta.name < b.meta.name ? -1 : 1))
      .map(({ meta, lines }) => `# HELP ${meta.name} ${meta.help}\n# TYPE ${meta.name} ${meta.kind}\n${lines.join("")}`)
      .join("");
  }
}

function labelText(labels: MetricLabels): string {
  const parts = Object.entries(labels)
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, value]) => `${name}="${value.replace(/[\\"\n]/g, (char) => (char === "\n" ? "\\n" : `\\${char}`))}"`);
  return parts.length === 0 ? "" : `{${parts.join(",")}}`;
}

/** Puts its figures on a page when somebody asks. */
export type Collector = (page: MetricPage, signal: AbortSignal) => Promise<void>;

/** What the daemon's plugins have to show. */
export class MetricsRegistry {
  readonly #collectors = new Set<Collector>();
  readonly #counters = new Map<string, { readonly meta: MetricMeta; readonly labels: MetricLabels; value: number }>();

  /** Dispose the result to leave. */
  register(collector: Collector): Disposable {
    this.#collectors.add(collector);
    return { [Symbol.dispose]: () => void this.#collectors.delete(collector) };
  }

  /** Adds one to a counter. Labels must come from a small closed set. */
  count(meta: Omit<MetricMeta, "kind">, labels: MetricLabels): void {
    const key = `${meta.name}${labelText(labels)}`;
    const known = this.#counters.get(key);
    if (known === undefined) this.#counters.set(key, { meta: { ...meta, kind: "counter" }, labels, value: 1 });
    else known.value += 1;
  }

  async page(signal: AbortSignal): Promise<string> {
    const page = new MetricPage();
    for (const { meta, labels, value } of this.#counters.values()) page.add(meta, labels, value);
    for (const collect of this.#collectors) await collect(page, signal);
    return page.text();
  }
}
