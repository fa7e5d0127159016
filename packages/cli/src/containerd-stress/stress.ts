/** The test itself: workers that make, run and remove containers until the time is over, and execs beside them. */
import { backgroundContext, messageOf } from "@stevedore/base";
import { connectClient } from "@stevedore/sdk/connect";
import { NULL_IO } from "@stevedore/sdk/local/task-streams";
import { jsonAny, PROCESS_TYPE_URL, toJson } from "@stevedore/sdk/spec/any";
import { processOf } from "@stevedore/sdk/spec/options";
import type { AnyValue, ProcessRef } from "@stevedore/sdk/types";
import type { CommandIO } from "../kit/command.ts";
import {
  cleanNamespace,
  killAndDelete,
  newContainer,
  newTask,
  prepareTemplate,
  removeContainer,
  specFor,
  type Template,
} from "./containers.ts";
import { StressMetrics, serveMetrics } from "./metrics.ts";
import type { StressSettings } from "./settings.ts";

const NAMESPACE = "stress";

/** What the main process of a container does that execs go into. */
const SLEEP = ["sleep", "30d"];

/** What one worker counts. */
interface Tally {
  count: number;
  failures: number;
}

/** One run of the test, as its workers see it. */
interface Run {
  readonly template: Template;
  readonly metrics: StressMetrics;
  /** Ends with the duration or an interrupt; what has begun by then is still finished and removed. */
  readonly over: AbortSignal;
}

/** Runs the test and reports it. @returns the exit code; failures of single containers are counted, not fatal */
export async function stress(settings: StressSettings, io: CommandIO): Promise<number> {
  const { log } = settings;
  await using client = connectClient({ address: settings.address });
  const context = backgroundContext({ namespace: NAMESPACE });
  await using stack = new AsyncDisposableStack();
  await cleanNamespace(client, context);
  const { revision } = await client.version(context);
  const metrics = new StressMetrics(revision);
  if (settings.metrics !== "") {
    stack.use(serveMetrics(settings.metrics, metrics));
    await metrics.measureBinaries(log);
  }
  log.info(`looking for ${settings.image}`);
  const template = await prepareTemplate(client, context, { namespace: NAMESPACE, settings });
  const over = AbortSignal.any([io.signal, AbortSignal.timeout(settings.durationMs)]);
  const run: Run = { template, metrics, over };
  log.info("starting stress test run...");
  const ids = Array.from({ length: settings.concurrent }, (_, index) => index);
  const started = performance.now();
  const [tallies, execs] = await Promise.all([
    Promise.all(ids.map(async (id) => containerWorker(run, id))),
    settings.exec ? Promise.all(ids.map(async (id) => execWorker(run, settings.concurrent + id))) : [],
  ]);
  report({ seconds: (performance.now() - started) / 1000, tallies, execs }, settings, io);
  return 0;
}

interface Outcome {
  readonly seconds: number;
  readonly tallies: readonly Tally[];
  readonly execs: readonly Tally[];
}

function report({ seconds, tallies, execs }: Outcome, settings: StressSettings, io: CommandIO): void {
  const sum = (of: readonly Tally[], key: keyof Tally): number => of.reduce((all, one) => all + one[key], 0);
  const total = sum(tallies, "count");
  const failures = sum(tallies, "failures");
  const result = {
    total,
    failures,
    seconds,
    containersPerSecond: total / seconds,
    secondsPerContainer: seconds / total,
    execTotal: sum(execs, "count"),
    execFailures: sum(execs, "failures"),
  };
  settings.log.info(`ending test run in ${seconds.toFixed(3)} seconds`);
  const rate = `(${result.containersPerSecond.toFixed(3)} c/sec) or (${result.secondsPerContainer.toFixed(3)} sec/c)`;
  settings.log.info(`create/start/delete ${total} containers in ${seconds.toFixed(3)} seconds ${rate}`, {
    failures: String(failures),
  });
  if (settings.json) io.stdout.write(`${JSON.stringify(result)}\n`);
}

async function containerWorker(run: Run, worker: number): Promise<Tally> {
  const { log } = run.template.settings;
  const tally: Tally = { count: 0, failures: 0 };
  await repeat(run, {
    worker,
    tally,
    doing: "running container",
    work: async (id) => {
      log.debug(`starting container ${id}`);
      const started = performance.now();
      await runContainer(run.template, id);
      run.metrics.ran((performance.now() - started) / 1000);
    },
  });
  return tally;
}

interface Repeated {
  readonly worker: number;
  readonly tally: Tally;
  readonly doing: string;
  readonly work: (id: string) => Promise<void>;
}

async function repeat(run: Run, { worker, tally, doing, work }: Repeated): Promise<void> {
  const { log } = run.template.settings;
  do {
    tally.count += 1;
    const id = `${worker}-${tally.count}`;
    try {
      await work(id);
    } catch (error) {
      tally.failures += 1;
      log.error(`${doing} ${id}`, error);
      run.metrics.failed(messageOf(error));
    }
  } while (!run.over.aborted);
  log.info(`worker ${worker} finished`);
}

async function runContainer(template: Template, id: string): Promise<void> {
  const { client, context } = template;
  await using undo = new AsyncDisposableStack();
  const container = await newContainer(template, id, ["true"]);
  undo.defer(async () => removeContainer(client, context, container));
  const process = await newTask(template, container);
  await endWell(template, process);
}

/** Starts a process that ends by itself, awaits it and deletes it. */
async function endWell({ client, context }: Template, process: ProcessRef): Promise<void> {
  try {
    const exited = client.tasks.wait(context, process);
    // Read below; a failed start must not leave it unhandled.
    exited.catch(() => undefined);
    await client.tasks.start(context, process);
    await exited;
  } catch (error) {
    await killAndDelete(client, context, process).catch(() => undefined);
    throw error;
  }
  await client.tasks.delete(context, process);
}

async function execWorker(run: Run, worker: number): Promise<Tally> {
  const { template, metrics } = run;
  const { client, context, settings } = template;
  const tally: Tally = { count: 0, failures: 0 };
  await using undo = new AsyncDisposableStack();
  try {
    const container = await newContainer(template, `exec-container-${worker}`, SLEEP);
    undo.defer(async () => removeContainer(client, context, container));
    const init = await newTask(template, container);
    undo.defer(async () => killAndDelete(client, context, init));
    await client.tasks.start(context, init);
    const spec = processSpec(template, container.id);
    await repeat(run, {
      worker,
      tally,
      doing: "running exec",
      work: async (execId) => {
        settings.log.debug(`starting exec ${execId}`);
        const started = performance.now();
        const process = { containerId: container.id, execId };
        await client.tasks.exec(context, { ...process, io: NULL_IO, spec });
        await endWell(template, process);
        metrics.executed((performance.now() - started) / 1000);
      },
    });
  } catch (error) {
    tally.failures += 1;
    settings.log.error("create exec container", error);
    metrics.failed(messageOf(error));
  }
  return tally;
}

function processSpec(template: Template, id: string): AnyValue {
  return jsonAny(PROCESS_TYPE_URL, toJson(processOf(specFor(template, id, ["true"]))));
}
