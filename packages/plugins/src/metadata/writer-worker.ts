import { classified } from "@stevedore/base";
import { type Call, type FromWriter, failureOf, isToWriter, type ToWriter } from "./messages.ts";
import { packMoments, unpackMoments } from "./moments.ts";
import { closeConnection } from "./statement.ts";
import { type BatchResult, Writer } from "./writer.ts";

/**
 * Entrypoint of the writer thread. Batches come and are answered in order; a collection runs in slices between them.
 */

declare const self: {
  postMessage(message: FromWriter): void;
  addEventListener(type: "message", listener: (event: { readonly data: unknown }) => void): void;
};

/** This thread's writer while it is open. */
const thread: { writer: Writer | undefined; sliceMs: number } = { writer: undefined, sliceMs: 5 };

self.addEventListener("message", (event) => {
  const message = event.data;
  if (isToWriter(message)) receive(message);
});

function receive(message: ToWriter): void {
  switch (message.kind) {
    case "open":
      thread.sliceMs = message.sliceMs;
      try {
        const writer = Writer.open(message.path, { noSync: message.noSync });
        thread.writer = writer;
        const { created, damage } = writer;
        self.postMessage({ kind: "opened", created, ...(damage === undefined ? {} : { damage }) });
      } catch (error) {
        self.postMessage({ kind: "failed", failure: failureOf(error) });
      }
      return;
    case "log-limits":
      thread.writer?.setLogLimits(message.limits);
      return;
    case "batch":
      self.postMessage({
        kind: "batch",
        id: message.id,
        ...packMoments(runBatch(message.calls.map((call) => unpackMoments(call)))),
      });
      return;
    case "collect":
      if (thread.writer !== undefined) void collect(thread.writer);
      return;
    case "close":
      thread.writer?.[Symbol.dispose]();
      thread.writer = undefined;
      self.postMessage({ kind: "closed" });
      return;
    default:
      message satisfies never;
  }
}

/** Answers every call, whatever happens: a caller must not wait for ever. */
function runBatch(calls: readonly Call[]): BatchResult {
  try {
    if (thread.writer === undefined) throw classified("unavailable", "metadata: store is closed: unavailable");
    return thread.writer.run(calls);
  } catch (error) {
    const failure = failureOf(error);
    return { outcomes: calls.map(() => ({ failure })), mutations: 0, dirty: 0, appended: [] };
  }
}

async function collect(owner: Writer): Promise<void> {
  const started = performance.now();
  try {
    const garbage = await mark(owner);
    const marked = performance.now();
    while (garbage.length > 0 && thread.writer === owner) {
      const end = performance.now() + thread.sliceMs;
      // In parts: the loop takes in thousands of objects without a pause.
      self.postMessage({ kind: "swept", removed: owner.sweep(garbage, () => performance.now() > end) });
      await turn();
    }
    self.postMessage({
      kind: "collected",
      markMs: marked - started,
      sweepMs: performance.now() - marked,
    });
  } catch (error) {
    self.postMessage({ kind: "collect-failed", failure: failureOf(error) });
  } finally {
    owner.collection.finish();
  }
}

/** Looking at the clock costs more than a row. */
const ROWS_PER_LOOK = 32;

async function mark(owner: Writer): Promise<(readonly string[])[]> {
  const reader = owner.openReader();
  try {
    const steps = owner.collection.mark(reader, Date.now());
    for (;;) {
      const end = performance.now() + thread.sliceMs;
      do {
        for (let row = 0; row < ROWS_PER_LOOK; row++) {
          const step = steps.next();
          if (step.done === true) return step.value;
        }
      } while (performance.now() < end);
      await turn();
      if (thread.writer !== owner) {
        steps.return([]);
        return [];
      }
    }
  } finally {
    closeConnection(reader);
  }
}

/** Lets waiting batches go first. */
async function turn(): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  setImmediate(resolve);
  await promise;
}
