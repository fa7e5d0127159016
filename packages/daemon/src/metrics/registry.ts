/** Who has figures to show: collectors that are asked at a scrape, and counters that are kept. */
import { Histogram, LabelSet, type MetricLabels, type MetricMeta, MetricPage } from "./family.ts";

/** Puts its figures on a page when somebody asks. */
export type Collector = (page: MetricPage, signal: AbortSignal) => Promise<void> | void;

type Described = Omit<MetricMeta, "kind">;

/** What the daemon's plugins have to show. */
export class MetricsRegistry {
  readonly #collectors = new Set<Collector>();

  /** Dispose the result to leave. */
  register(collector: Collector): Disposable {
    this.#collectors.add(collector);
    return { [Symbol.dispose]: () => void this.#collectors.delete(collector) };
  }

  /** A counter, one value for each set of labels; these must come from a small closed set. */
  counter(meta: Described): { readonly add: (labels: MetricLabels, by?: number) => void } {
    const values = new Map<string, { readonly labels: LabelSet; value: number }>();
    this.register((page) => {
      for (const { labels, value } of values.values()) page.add({ ...meta, kind: "counter" }, labels, value);
    });
    return {
      add: (labels, by = 1) => {
        const set = new LabelSet(labels);
        const known = values.get(set.text);
        if (known === undefined) values.set(set.text, { labels: set, value: by });
        else known.value += by;
      },
    };
  }

  /** A histogram of durations in seconds. */
  histogram(meta: Described): { readonly observe: (seconds: number) => void } {
    const histogram = new Histogram();
    this.register((page) => page.add({ ...meta, kind: "histogram" }, undefined, histogram.value()));
    return histogram;
  }

  /** Asks all. @throws the first collector's error; the signal's reason */
  async page(signal: AbortSignal): Promise<MetricPage> {
    const page = new MetricPage();
    for (const collect of this.#collectors) {
      signal.throwIfAborted();
      await collect(page, signal);
    }
    return page;
  }
}
