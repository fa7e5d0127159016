// The status table: what clients are told, method by method, by Debian's containerd and by us. The texts are its recorded ones; where
// containerd 2.3.4 says something else, or we do on purpose, `newer` says what and why, and our daemon is held to that.
// @covers rpc:containerd.services.containers.v1.Containers/*, rpc:containerd.services.content.v1.Content/*, rpc:containerd.services.diff.v1.Diff/*
// @covers rpc:containerd.services.events.v1.Events/*, rpc:containerd.services.images.v1.Images/*, rpc:containerd.services.leases.v1.Leases/*
// @covers rpc:containerd.services.introspection.v1.Introspection/*, rpc:containerd.services.namespaces.v1.Namespaces/*
// @covers rpc:containerd.services.snapshots.v1.Snapshots/*, rpc:containerd.services.tasks.v1.Tasks/*, rpc:containerd.services.version.v1.Version/*
// @covers rpc:grpc.health.v1.Health/*
import { afterAll, describe, expect, test } from "bun:test";
import { Content, WriteAction } from "@stevedore/wire/gen/containerd/services/content/v1/content_pb";
import { Events } from "@stevedore/wire/gen/containerd/services/events/v1/events_pb";
import { Tasks } from "@stevedore/wire/gen/containerd/services/tasks/v1/tasks_pb";
import { Version } from "@stevedore/wire/gen/containerd/services/version/v1/version_pb";
import { Health } from "@stevedore/wire/gen/grpc/health/v1/health_pb";
import { Code } from "@stevedore/wire/status";
import { Daemon, type Maker } from "../harness/daemon.ts";
import { CASES, KINDS, SERVICES } from "./status-cases.ts";
import table from "./status-table.json";
import { drain, each, type Told, World } from "./status-world.ts";

interface Row {
  readonly peer: Told;
  readonly newer?: Told & { readonly source: string };
}

const ROWS = new Map<string, Row>(Object.entries(table));

const METHODS = SERVICES.flatMap((service) => service.methods.map((method) => `${service.typeName}/${method.name}`));

test("N02-N16: every method of every service has cases, and every case a recorded answer", () => {
  expect(Object.keys(CASES).toSorted()).toEqual(METHODS.toSorted());
  const keys = Object.entries(CASES).flatMap(([method, cases]) =>
    KINDS.filter((kind) => typeof cases[kind] !== "string").map((kind) => `${method} ${kind}`),
  );
  expect([...ROWS.keys()].toSorted()).toEqual(keys.toSorted());
});

const daemons = new Map<Maker, Promise<Daemon>>();
async function daemonOf(maker: Maker): Promise<Daemon> {
  const known = daemons.get(maker);
  if (known !== undefined) return known;
  const started = Daemon.start({ maker });
  daemons.set(maker, started);
  return started;
}
afterAll(async () => {
  for (const daemon of daemons.values()) await (await daemon).close();
});

/** What streams do when their client stops reading, gives them too little time, or stops writing. */
const STREAMS: Readonly<Record<string, (world: World) => Promise<unknown>>> = {
  "Subscribe, cancelled": async (w) => {
    const signal = AbortSignal.timeout(100);
    return drain(w.stub(Events).subscribe({}, w.call({ signal: aborting(signal) })));
  },
  "Subscribe, out of time": async (w) => drain(w.stub(Events).subscribe({}, w.call({ timeoutMs: 100 }))),
  "Watch, cancelled": async (w) => {
    const signal = AbortSignal.timeout(100);
    return drain(w.stub(Health).watch({}, w.call({ signal: aborting(signal) })));
  },
  "Watch, out of time": async (w) => drain(w.stub(Health).watch({}, w.call({ timeoutMs: 100 }))),
  "Write, out of time": async (w) => {
    const first = { action: WriteAction.STAT, ref: w.name("ref") };
    return drain(w.stub(Content).write(andThenNothing(first), w.call({ timeoutMs: 100 })));
  },
  "Write, cancelled": async (w) => {
    const first = { action: WriteAction.STAT, ref: w.name("ref") };
    const signal = aborting(AbortSignal.timeout(100));
    return drain(w.stub(Content).write(andThenNothing(first), w.call({ signal })));
  },
  "Write, ended before it began": async (w) => drain(w.stub(Content).write(each(), w.call())),
  "Write, ended without a commit": async (w) => {
    const first = { action: WriteAction.STAT, ref: w.name("ref") };
    return drain(w.stub(Content).write(each(first), w.call()));
  },
  "Wait, out of time": async (w) => w.stub(Tasks).wait({ containerId: await w.task() }, w.call({ timeoutMs: 200 })),
  "Wait, cancelled": async (w) => {
    const containerId = await w.task();
    const signal = aborting(AbortSignal.timeout(100));
    return w.stub(Tasks).wait({ containerId }, w.call({ signal }));
  },
};

const STREAM_TOLD: Readonly<Record<string, Told>> = {
  "Subscribe, cancelled": { code: Code.canceled, message: "context canceled" },
  "Subscribe, out of time": { code: Code.deadlineExceeded, message: "context deadline exceeded" },
  "Watch, cancelled": { code: Code.canceled, message: "context canceled" },
  "Watch, out of time": { code: Code.deadlineExceeded, message: "context deadline exceeded" },
  "Write, out of time": { code: Code.deadlineExceeded, message: "context deadline exceeded" },
  "Write, cancelled": { code: Code.canceled, message: "context canceled" },
  "Write, ended before it began": { code: Code.unknown, message: "EOF" },
  "Write, ended without a commit": { code: Code.ok },
  "Wait, out of time": { code: Code.deadlineExceeded, message: "context deadline exceeded" },
  "Wait, cancelled": { code: Code.canceled, message: "context canceled" },
};

const STREAM_ROWS: Readonly<Record<string, string>> = { Subscribe: "N05", Watch: "N16", Write: "N03", Wait: "N13" };

/** A signal that ends for no reason of its own, as a client's does. */
function aborting(by: AbortSignal): AbortSignal {
  const controller = new AbortController();
  by.addEventListener("abort", () => controller.abort(), { once: true });
  return controller.signal;
}

async function* andThenNothing<T>(first: T): AsyncGenerator<T> {
  yield first;
  await new Promise(() => undefined);
}

/** What the peer may say when its own clock and the client's end a call together. */
const LATE_ANSWERS: ReadonlySet<number> = new Set([Code.unknown, Code.canceled, Code.deadlineExceeded]);

/** The line of the feature list that a service is, which its cases are named by. */
const SERVICE_ROWS: Readonly<Record<string, string>> = {
  "containerd.services.containers.v1.Containers": "N02",
  "containerd.services.content.v1.Content": "N03",
  "containerd.services.diff.v1.Diff": "N04",
  "containerd.services.events.v1.Events": "N05",
  "containerd.services.images.v1.Images": "N06",
  "containerd.services.introspection.v1.Introspection": "N07",
  "containerd.services.leases.v1.Leases": "N08",
  "containerd.services.namespaces.v1.Namespaces": "N09",
  "containerd.services.sandbox.v1.Store": "N10",
  "containerd.services.sandbox.v1.Controller": "N10",
  "containerd.services.snapshots.v1.Snapshots": "N11",
  "containerd.services.tasks.v1.Tasks": "N13",
  "containerd.services.version.v1.Version": "N15",
  "grpc.health.v1.Health": "N16",
};

/** `containerd.services.content.v1.Content/Abort` with its row: `N03: Content/Abort`. */
function titleOf(method: string): string {
  const service = method.slice(0, method.indexOf("/"));
  return `${SERVICE_ROWS[service] ?? service}: ${method.slice(service.lastIndexOf(".") + 1)}`;
}

const side = process.env["STEVEDORE_SIDE"];
const MAKERS: readonly Maker[] = side === "peer" ? ["debian"] : side === "product" ? ["ours"] : ["debian", "ours"];
const CASE_LIMIT_MS = 60_000;

for (const maker of MAKERS) {
  const cast = maker === "debian" ? "peer" : "ours";
  describe("status table", () => {
    for (const [method, cases] of Object.entries(CASES)) {
      for (const kind of KINDS) {
        const run = cases[kind];
        const row = ROWS.get(`${method} ${kind}`);
        if (typeof run === "string" || row === undefined) continue;
        const { source: _source, ...newer } = row.newer ?? { ...row.peer, source: "" };
        test(
          `${titleOf(method)} ${kind} [${cast}]`,
          async () => {
            await using world = await World.open(await daemonOf(maker));
            expect(await world.tell(run)).toEqual(maker === "debian" ? row.peer : newer);
          },
          CASE_LIMIT_MS,
        );
      }
    }
    for (const [name, run] of Object.entries(STREAMS)) {
      test(
        `${STREAM_ROWS[name.split(",")[0] ?? ""]}: ${name} [${cast}]`,
        async () => {
          await using world = await World.open(await daemonOf(maker));
          const told = await world.tell(run);
          // The peer's own answer races with the client's clock, and gives class and text away.
          const late = maker === "debian" && name.endsWith(", out of time") && LATE_ANSWERS.has(told.code);
          const expected = STREAM_TOLD[name] ?? { code: Code.ok };
          expect(late ? expected : told).toEqual(expected);
          // The daemon goes on as if nothing had been.
          await world.stub(Version).version({}, world.call());
        },
        CASE_LIMIT_MS,
      );
    }
  });
}
