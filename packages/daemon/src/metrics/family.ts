/** Figures for Prometheus as data: families of samples. How they are written is of `text.ts` and `protobuf.ts`. */

export type MetricLabels = Readonly<Record<string, string>>;
export type MetricKind = "gauge" | "counter" | "histogram";

export interface MetricMeta {
  readonly name: string;
  readonly help: string;
  readonly kind: MetricKind;
}

/** Labels of samples, sorted by name, and as the text format writes them. Share one among samples that have the same. */
export class LabelSet {
  readonly pairs: readonly (readonly [name: string, value: string])[];
  #text: string | undefined;

  constructor(labels: MetricLabels) {
    this.pairs = Object.entries(labels).toSorted(([a], [b]) => (a < b ? -1 : 1));
  }

  /** `a="1",b="2"`, escaped; without braces. */
  get text(): string {
    this.#text ??= this.pairs.map(([name, value]) => `${name}="${escapeLabel(value)}"`).join(",");
    return this.#text;
  }

  with(more: MetricLabels): LabelSet {
    return new LabelSet({ ...Object.fromEntries(this.pairs), ...more });
  }
}

const NONE = new LabelSet({});

function escapeLabel(value: string): string {
  return /[\\"\n]/.test(value) ? value.replace(/[\\"\n]/g, (char) => (char === "\n" ? "\\n" : `\\${char}`)) : value;
}

/** What a histogram holds: how many values were at most each bound, and all of them. */
export interface HistogramValue {
  /** Upper bounds, rising, without the infinite one. */
  readonly bounds: readonly number[];
  /** Values at most the bound of the same place. */
  readonly cumulative: readonly number[];
  readonly count: number;
  readonly sum: number;
}

export interface Sample {
  readonly labels: LabelSet;
  readonly value: number | HistogramValue;
}

export interface Family {
  readonly meta: MetricMeta;
  readonly samples: readonly Sample[];
}

/** One answer to a scrape: samples by family. */
export class MetricPage {
  readonly #families = new Map<string, { readonly meta: MetricMeta; readonly samples: Sample[] }>();

  add(meta: MetricMeta, labels: LabelSet | MetricLabels | undefined, value: number | bigint | HistogramValue): void {
    let family = this.#families.get(meta.name);
    if (family === undefined) {
      family = { meta, samples: [] };
      this.#families.set(meta.name, family);
    }
    const set = labels === undefined ? NONE : labels instanceof LabelSet ? labels : new LabelSet(labels);
    family.samples.push({ labels: set, value: typeof value === "bigint" ? Number(value) : value });
  }

  /** The families by name, as the peer orders them. */
  families(): Family[] {
    return [...this.#families.values()].toSorted((a, b) => (a.meta.name < b.meta.name ? -1 : 1));
  }
}

/** Prometheus' usual bounds of durations, in seconds. */
export const DURATION_BOUNDS: readonly number[] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

/** A histogram that is filled value by value. */
export class Histogram {
  readonly #bounds: readonly number[];
  readonly #buckets: Float64Array;
  #count = 0;
  #sum = 0;

  constructor(bounds: readonly number[] = DURATION_BOUNDS) {
    this.#bounds = bounds;
    this.#buckets = new Float64Array(bounds.length);
  }

  observe(value: number): void {
    this.#count++;
    this.#sum += value;
    for (let at = 0; at < this.#bounds.length; at++) {
      if (value <= (this.#bounds[at] ?? 0)) {
        this.#buckets[at] = (this.#buckets[at] ?? 0) + 1;
        return;
      }
    }
  }

  value(): HistogramValue {
    let below = 0;
    const cumulative = [...this.#buckets].map((count) => {
      below += count;
      return below;
    });
    return { bounds: this.#bounds, cumulative, count: this.#count, sum: this.#sum };
  }
}
