// docs/metrics.md names every family there is, and none that is not.
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { metricsV1, metricsV2 } from "@stevedore/os/cgroup-parse";
import { Version } from "@stevedore/wire/gen/containerd/services/version/v1/version_pb";
import { addCgroupV1, addCgroupV2, type ContainerLabels } from "./cgroup.ts";
import { LabelSet, MetricPage } from "./family.ts";
import { GrpcMetrics } from "./grpc.ts";
import { processCollector } from "./process.ts";

const PAGE = readFileSync(join(import.meta.dir, "../../../../docs/metrics.md"), "utf8");
const SOURCE = ["../builtins.ts", "server.ts"]
  .map((file) => readFileSync(join(import.meta.dir, file), "utf8"))
  .join("");

const FAMILY = /\b(?:containerd?|grpc_server|process|promhttp)_[a-z0-9_{},]*[a-z0-9}]/g;

/** `a_{b,c}_{d,e}` as the four names it stands for. */
function expand(pattern: string): string[] {
  const match = /^([^{]*)\{([^}]*)\}(.*)$/.exec(pattern);
  if (match === null) return [pattern];
  const [, before = "", choices = "", after = ""] = match;
  return choices.split(",").flatMap((choice) => expand(`${before}${choice}${after}`));
}

async function families(): Promise<Set<string>> {
  const page = new MetricPage();
  const short = new LabelSet({});
  const labels: ContainerLabels = { short, full: short };
  const all: Readonly<Record<string, string>> = {
    "cpuacct.usage_percpu": "1",
    "hugetlb.2MB.usage_in_bytes": "1",
    "io.stat": "8:0 rbytes=1",
  };
  const read = (_controller: string, file: string): string | undefined =>
    file.startsWith("blkio.throttle") ? "8:0 Read 1" : all[file];
  addCgroupV1(page, labels, metricsV1({ read, pageSizes: ["2MB"], deviceName: () => "" }));
  addCgroupV2(page, labels, metricsV2({ read, pageSizes: ["2MB"] }));
  const grpc = new GrpcMetrics({ histogram: true });
  grpc.show([Version]);
  grpc.collect(page);
  await processCollector({ version: "", revision: "" })(page, new AbortController().signal);
  const names = new Set(page.families().map(({ meta }) => meta.name));
  for (const [, name = ""] of SOURCE.matchAll(/name: "((?:containerd|promhttp)_\w+)"/g)) names.add(name);
  return names;
}

test("each family is in docs/metrics.md, and each name there is a family", async () => {
  const text = PAGE.replace(/\{[^}]*=[^}]*\}/g, ""); // a query's selectors
  const documented = new Set([...text.matchAll(FAMILY)].flatMap(([pattern]) => expand(pattern)));
  // Labels begin as families do.
  documented.delete("container_id");
  expect([...documented].toSorted()).toEqual([...(await families())].toSorted());
});
