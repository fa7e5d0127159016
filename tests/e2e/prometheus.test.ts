// Debian's Prometheus (unpacked under build/prometheus) collects from a daemon, as operators have it do.
import { expect } from "bun:test";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { isString, listOf, recordOf, shapeOf } from "../../tools/json.ts";
import { repository } from "../harness/daemon.ts";
import { freePort } from "../harness/ports.ts";
import { eventually, start } from "../harness/process.ts";
import { row, type Stage } from "../harness/row.ts";

const PROGRAM = join(repository, "build/prometheus/usr/bin/prometheus");
const JOB = "monitoring/containerd-monitor";
/** Prometheus' own start on a busy machine, and its first scrapes. */
const PATIENCE_MS = 60_000;

const isSample = shapeOf({ metric: recordOf(isString) });
const isAnswer = shapeOf({ status: isString, data: shapeOf({ resultType: isString, result: listOf(isSample) }) });

/** The labels of the series a query gives. */
type Ask = (query: string) => Promise<readonly Readonly<Record<string, string>>[]>;

/** Runs one that scrapes a port every half second, for as long as `use` takes. */
async function withPrometheus(t: Stage, port: number, use: (ask: Ask) => Promise<void>): Promise<void> {
  const folder = t.path("prometheus");
  await mkdir(folder);
  const config = [
    "global: { scrape_interval: 500ms, scrape_timeout: 500ms }",
    `scrape_configs: [{ job_name: ${JOB}, metrics_path: /v1/metrics, static_configs: [{ targets: ["127.0.0.1:${port}"] }] }]`,
  ];
  await writeFile(join(folder, "prometheus.yml"), config.join("\n"));
  const own = freePort();
  const child = start([
    PROGRAM,
    `--config.file=${join(folder, "prometheus.yml")}`,
    `--storage.tsdb.path=${join(folder, "data")}`,
    `--web.listen-address=127.0.0.1:${own}`,
  ]);
  try {
    await use(async (query) => {
      const address = `http://127.0.0.1:${own}/api/v1/query?query=${encodeURIComponent(query)}`;
      const answer: unknown = await fetch(address).then(
        async (got): Promise<unknown> => (got.ok ? got.json() : undefined),
        () => undefined,
      );
      return isAnswer(answer) && answer.status === "success" ? answer.data.result.map(({ metric }) => metric) : [];
    });
  } catch (error) {
    throw new Error(`${String(error)}\n--- prometheus ---\n${child.stderr().slice(-2_000)}`, { cause: error });
  } finally {
    await child.stop("SIGTERM");
  }
}

const PORT = freePort();
const METRICS = `[metrics]\n  address = "127.0.0.1:${PORT}"\n  grpc_histogram = true\n`;

row(
  "M03 M04",
  "Prometheus finds the target up, also after a restart, and keeps its families with their labels",
  {
    casts: ["peer", "ours"],
    timeoutMs: 240_000,
    config: { ours: METRICS, debian: METRICS },
  },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "-d", "--null-io", await t.image(), id, "sleep", "1000");
    await withPrometheus(t, PORT, async (ask) => {
      const until = async (query: string): Promise<readonly Readonly<Record<string, string>>[]> =>
        eventually(
          query,
          async () => {
            const found = await ask(query);
            return found.length > 0 ? found : undefined;
          },
          PATIENCE_MS,
        );
      expect(await until(`up{job="${JOB}"} == 1`)).toMatchObject([{ instance: `127.0.0.1:${PORT}` }]);
      expect((await until("containerd_build_info_total == 1"))[0]).toMatchObject({ job: JOB });
      for (const query of [
        "process_resident_memory_bytes > 0",
        "process_open_fds > 0",
        'grpc_server_handled_total{grpc_code="OK", grpc_service="containerd.services.tasks.v1.Tasks", grpc_method="Start"} >= 1',
        "histogram_quantile(0.99, sum by (le) (grpc_server_handling_seconds_bucket)) > 0",
        "promhttp_metric_handler_requests_total >= 1",
        `container_pids_current{container_id="${id}", namespace="${t.namespace}"} == 1`,
      ])
        await until(query);
      // A new process of the daemon is the same target; its counters begin again, which rates can tell.
      await t.daemon.stop("SIGKILL");
      await until(`up{job="${JOB}"} == 0`);
      await t.daemon.launch();
      await until(`up{job="${JOB}"} == 1`);
      await until("resets(process_start_time_seconds[5m]) >= 0 and changes(process_start_time_seconds[5m]) >= 1");
      await until(`container_pids_current{container_id="${id}"} == 1`);
    });
  },
);
