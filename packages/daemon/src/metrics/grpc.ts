/**
 * Counts of gRPC calls, under the names of Go's gRPC middleware for Prometheus. On the path of every call, so a call costs
 * a map look-up and additions on an object that its method has for good.
 */

import type { DescMethod, DescService } from "@bufbuild/protobuf";
import { CODE_NAMES } from "@stevedore/base/code-names";
import type { CallObserver, CallWatch, ObservedEnd } from "@stevedore/wire/grpc/server";
import { Histogram, LabelSet, type MetricMeta, type MetricPage } from "./family.ts";

const TOTAL = {
  started: {
    name: "grpc_server_started_total",
    help: "Total number of RPCs started on the server.",
    kind: "counter",
  },
  handled: {
    name: "grpc_server_handled_total",
    help: "Total number of RPCs completed on the server, regardless of success or failure.",
    kind: "counter",
  },
  received: {
    name: "grpc_server_msg_received_total",
    help: "Total number of RPC stream messages received on the server.",
    kind: "counter",
  },
  sent: {
    name: "grpc_server_msg_sent_total",
    help: "Total number of gRPC stream messages sent by the server.",
    kind: "counter",
  },
  seconds: {
    name: "grpc_server_handling_seconds",
    help: "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.",
    kind: "histogram",
  },
} as const satisfies Readonly<Record<string, MetricMeta>>;

/** What a code that gRPC does not know counts as. */
const UNKNOWN = 2;

/** Label values of `grpc_type`. */
const TYPES: Readonly<Record<DescMethod["methodKind"], string>> = {
  unary: "unary",
  client_streaming: "client_stream",
  server_streaming: "server_stream",
  bidi_streaming: "bidi_stream",
};

const MS_PER_SECOND = 1000;

class MethodCounts implements CallWatch {
  readonly labels: LabelSet;
  readonly handled = new Float64Array(CODE_NAMES.length);
  readonly seconds: Histogram | undefined;
  started = 0;
  messagesIn = 0;
  messagesOut = 0;
  #codeLabels: readonly LabelSet[] | undefined;

  constructor(method: DescMethod, histogram: boolean) {
    this.labels = new LabelSet({
      grpc_type: TYPES[method.methodKind],
      grpc_service: method.parent.typeName,
      grpc_method: method.name,
    });
    this.seconds = histogram ? new Histogram() : undefined;
  }

  received(): void {
    this.messagesIn++;
  }

  sent(): void {
    this.messagesOut++;
  }

  ended({ status, durationMs }: ObservedEnd): void {
    const code = status.code < CODE_NAMES.length ? status.code : UNKNOWN;
    this.handled[code] = (this.handled[code] ?? 0) + 1;
    this.seconds?.observe(durationMs / MS_PER_SECOND);
  }

  get codeLabels(): readonly LabelSet[] {
    this.#codeLabels ??= CODE_NAMES.map((code) => this.labels.with({ grpc_code: code }));
    return this.#codeLabels;
  }
}

/** The counts of all servers of a daemon. */
export class GrpcMetrics {
  readonly #histogram: boolean;
  /** By full name: the descriptor of a method is another object in each router. */
  readonly #methods = new Map<string, MethodCounts>();
  /** By descriptor, so that a call makes no text. */
  readonly #known = new Map<DescMethod, MethodCounts>();

  /** @param options.histogram whether to measure how long calls take, key `grpc_histogram`. */
  constructor(options: { readonly histogram: boolean }) {
    this.#histogram = options.histogram;
  }

  /** Shows the methods of services with 0 before their first call, as the peer does. */
  show(services: readonly DescService[]): void {
    for (const service of services) for (const method of service.methods) this.#countsOf(method);
  }

  /** Counts a server's calls. */
  readonly observe: CallObserver = (method) => {
    const counts = this.#countsOf(method);
    counts.started++;
    return counts;
  };

  readonly collect = (page: MetricPage): void => {
    for (const counts of this.#methods.values()) {
      const { labels, seconds } = counts;
      page.add(TOTAL.started, labels, counts.started);
      page.add(TOTAL.received, labels, counts.messagesIn);
      page.add(TOTAL.sent, labels, counts.messagesOut);
      for (const [code, set] of counts.codeLabels.entries()) page.add(TOTAL.handled, set, counts.handled[code] ?? 0);
      if (seconds !== undefined) page.add(TOTAL.seconds, labels, seconds.value());
    }
  };

  #countsOf(method: DescMethod): MethodCounts {
    const known = this.#known.get(method);
    if (known !== undefined) return known;
    const name = `${method.parent.typeName}/${method.name}`;
    const counts = this.#methods.get(name) ?? new MethodCounts(method, this.#histogram);
    this.#methods.set(name, counts);
    this.#known.set(method, counts);
    return counts;
  }
}
