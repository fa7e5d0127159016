/** Figures of a running test in the text format that Prometheus reads, with the names the peer gives them. */
import { stat } from "node:fs/promises";
import { join } from "node:path";
import type { StressLog } from "./settings.ts";

/** Upper bounds in seconds: the defaults of Prometheus' Go client. */
const BOUNDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

/** Binaries whose sizes are told, and where the peer looks for them. */
const BINARIES = ["ctr", "containerd", "containerd-shim-runc-v2"];
const BINARY_FOLDER = "/usr/local/bin";

/** A series of times of one kind of work. */
class Timer {
  readonly #counts = BOUNDS.map(() => 0);
  #sum = 0;
  #count = 0;

  observe(seconds: number): void {
    this.#sum += seconds;
    this.#count += 1;
    for (const [index, bound] of BOUNDS.entries()) {
      if (seconds <= bound) this.#counts[index] = (this.#counts[index] ?? 0) + 1;
    }
  }

  lines(name: string, label: string): string[] {
    if (this.#count === 0) return [];
    const buckets = BOUNDS.map((bound, index) => `${name}_bucket{${label},le="${bound}"} ${this.#counts[index] ?? 0}`);
    return [
      ...buckets,
      `${name}_bucket{${label},le="+Inf"} ${this.#count}`,
      `${name}_sum{${label}} ${this.#sum}`,
      `${name}_count{${label}} ${this.#count}`,
    ];
  }
}

/** What a test counts and times. `commit` is the revision of the daemon under test. */
export class StressMetrics {
  readonly #commit: string;
  readonly #runs = new Timer();
  readonly #execs = new Timer();
  readonly #errors = new Map<string, number>();
  readonly #sizes = new Map<string, number>();

  constructor(commit: string) {
    this.#commit = commit;
  }

  ran(seconds: number): void {
    this.#runs.observe(seconds);
  }

  executed(seconds: number): void {
    this.#execs.observe(seconds);
  }

  failed(message: string): void {
    this.#errors.set(message, (this.#errors.get(message) ?? 0) + 1);
  }

  /** Looks at the sizes of installed binaries; what is not there is said and left out. */
  async measureBinaries(log: StressLog): Promise<void> {
    for (const name of BINARIES) {
      try {
        this.#sizes.set(name, (await stat(join(BINARY_FOLDER, name))).size);
      } catch (error) {
        log.error("stat binary", error);
      }
    }
  }

  text(): string {
    const commit = `commit=${labelValue(this.#commit)}`;
    return [
      ...family("stress_binary_size_bytes", "gauge", "Binary size of compiled binaries"),
      ...[...this.#sizes].map(([name, size]) => `stress_binary_size_bytes{name=${labelValue(name)}} ${size}`),
      ...family("stress_errors_total", "counter", "Errors encountered running the stress tests"),
      ...[...this.#errors].map(([error, count]) => `stress_errors_total{err=${labelValue(error)}} ${count}`),
      ...family("stress_exec_seconds", "histogram", "Run time of an exec process during the test"),
      ...this.#execs.lines("stress_exec_seconds", commit),
      ...family("stress_run_seconds", "histogram", "Run time of a full container during the test"),
      ...this.#runs.lines("stress_run_seconds", commit),
      "",
    ].join("\n");
  }
}

function family(name: string, type: string, help: string): string[] {
  return [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`];
}

function labelValue(text: string): string {
  return `"${text.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n")}"`;
}

/** A listening address as Go writes it: `host:port`, with the host left out for every one. */
function parseListen(text: string): { readonly hostname: string; readonly port: number } {
  const at = text.lastIndexOf(":");
  const port = Number(text.slice(at + 1));
  if (at < 0 || !Number.isInteger(port) || port < 0 || port > 0xffff)
    throw new Error(`listen tcp: address ${text}: want host:port`);
  const host = text.slice(0, at).replace(/^\[(.*)\]$/, "$1");
  return { hostname: host === "" ? "0.0.0.0" : host, port };
}

/** Serves the figures at any path until disposed. @throws when the address is none or taken */
export function serveMetrics(address: string, metrics: StressMetrics): AsyncDisposable {
  const server = Bun.serve({
    ...parseListen(address),
    fetch: () =>
      new Response(metrics.text(), { headers: { "content-type": "text/plain; version=0.0.4; charset=utf-8" } }),
  });
  return { [Symbol.asyncDispose]: async () => server.stop(true) };
}
