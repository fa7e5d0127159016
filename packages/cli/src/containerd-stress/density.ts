/** `containerd-stress density`: the memory that the shims of many idle containers take. */
import { readFile } from "node:fs/promises";
import { backgroundContext, classified } from "@stevedore/base";
import { connectClient } from "@stevedore/sdk/connect";
import { intFlag } from "../kit/flags.ts";
import { defineCommand } from "../kit/program.ts";
import {
  cleanNamespace,
  killAndDelete,
  newContainer,
  newTask,
  prepareTemplate,
  removeContainer,
} from "./containers.ts";
import type { StressSettings } from "./settings.ts";

const NAMESPACE = "density";

/** Long enough that none ends before it is measured. */
const SLEEP = ["sleep", "120m"];

/** `containerd-stress density` */
export const command = defineCommand<StressSettings>()({
  flags: { count: intFlag("count", "Number of containers to run", { initial: 10 }) },
  action: async ({ flags, globals: settings, io }) => {
    if (flags.count < 1) throw classified("invalid-argument", `--count ${flags.count} runs nothing: invalid argument`);
    await using client = connectClient({ address: settings.address });
    const context = backgroundContext({ namespace: NAMESPACE });
    await cleanNamespace(client, context);
    settings.log.info(`looking for ${settings.image}`);
    const template = await prepareTemplate(client, context, { namespace: NAMESPACE, settings });
    await using undo = new AsyncDisposableStack();
    const pids: number[] = [];
    for (let index = 0; index < flags.count && !io.signal.aborted; index += 1) {
      const container = await newContainer(template, `density-${index}`, SLEEP);
      undo.defer(async () => removeContainer(client, context, container));
      const init = await newTask(template, container);
      undo.defer(async () => killAndDelete(client, context, init));
      const { pid } = await client.tasks.start(context, init);
      pids.push(pid);
    }
    if (pids.length === 0) return 0;
    const { pss, rss } = await shimMemory(pids);
    const each = (kib: number): number => Math.trunc(kib / pids.length);
    const result = { pss, rss, pssPerContainer: each(pss), rssPerContainer: each(rss) };
    io.stdout.write(`${JSON.stringify(result)}\n`);
    return 0;
  },
});

/** The memory of the parents of these processes, in KiB. A shim that has several containers counts once. */
async function shimMemory(pids: readonly number[]): Promise<{ readonly pss: number; readonly rss: number }> {
  const shims = new Set(await Promise.all(pids.map(parentOf)));
  const texts = await Promise.all([...shims].map(async (pid) => readFile(`/proc/${pid}/smaps_rollup`, "utf8")));
  const sum = (field: string): number => texts.reduce((all, text) => all + kibibytes(text, field), 0);
  return { pss: sum("Pss"), rss: sum("Rss") };
}

async function parentOf(pid: number): Promise<number> {
  const found = /^PPid:\s+(\d+)$/m.exec(await readFile(`/proc/${pid}/status`, "utf8"))?.[1];
  if (found === undefined) throw classified("not-found", `/proc/${pid}/status tells no parent: not found`);
  return Number(found);
}

function kibibytes(smaps: string, field: string): number {
  return Number(RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(smaps)?.[1] ?? 0);
}
