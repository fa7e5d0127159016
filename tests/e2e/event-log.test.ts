// The log of events: what was told stays, over a kill of the daemon too, and is read from a cursor or a time on. Ours alone; the
// peer's daemon shows that our client says so. The events service of shims beside it.
import { expect } from "bun:test";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Client } from "@stevedore/sdk/client";
import { connectClient } from "@stevedore/sdk/connect";
import type { ReplayedEvent } from "@stevedore/sdk/types";
import { connectUnix, Client as TtrpcClient } from "@stevedore/ttrpc";
import { encodeMessage, makeMessage } from "@stevedore/wire/codec";
import { TaskExitSchema } from "@stevedore/wire/gen/light/containerd/events/task_pb";
import { ForwardRequestSchema } from "@stevedore/wire/gen/light/containerd/services/events/ttrpc/v1/events_pb";
import { eventually } from "../harness/process.ts";
import { row, type Stage } from "../harness/row.ts";
import { heldAfterCollection } from "../soak/held.ts";

const OWN = "Stevedore's own: packages/wire/proto/stevedore/events/v1/events.proto";

/** Lines of `ctr events --since` without their cursors: topics of a namespace, oldest first. */
async function told(t: Stage, since = "1h"): Promise<string[]> {
  const printed = await t.must("events", "--since", since, "--no-follow", "--cursors", `namespace=="${t.namespace}"`);
  return printed.split("\n").filter((line) => line !== "");
}

const DEBUG_SOCKET = join(tmpdir(), `stv-events-${process.pid}.sock`);

const cursorOf = (line: string | undefined): string => line?.split(" ")[0] ?? "";
const topicOf = (line: string): string => line.split(" ")[6] ?? line;

async function withClient<T>(t: Stage, use: (client: Client) => Promise<T>): Promise<T> {
  const client = connectClient({ address: t.daemon.address });
  try {
    return await use(client);
  } finally {
    await client[Symbol.asyncDispose]();
  }
}

row(
  "N05",
  "events --since tells what happened, in order, after a kill of the daemon too",
  {
    casts: ["ours"],
    source: OWN,
    ownDaemon: true,
    covers: ["rpc:stevedore.events.v1.EventLog/Info", "rpc:stevedore.events.v1.EventLog/Read"],
  },
  async (t) => {
    const image = await t.image();
    expect(await t.ctr("run", "--rm", image, t.id("a"), "sh", "-c", "exit 3")).toMatchObject({ code: 3 });
    const life = ["/containers/create", "/tasks/create", "/tasks/start", "/tasks/exit"];
    const before = await eventually("the end of its life", async () => {
      const lines = await told(t);
      return lines.some((line) => topicOf(line) === "/containers/delete") ? lines : undefined;
    });
    const topics = before.map(topicOf);
    expect(topics.filter((topic) => life.includes(topic))).toEqual(life);
    expect(before.find((line) => topicOf(line) === "/tasks/exit")).toContain('"exit_status":3');

    await t.daemon.stop("SIGKILL");
    await t.daemon.launch();
    expect(await told(t)).toEqual(before);
    // From a cursor on: what comes after that event, and nothing when it is the last.
    const middle = before[Math.floor(before.length / 2)];
    expect(await told(t, cursorOf(middle))).toEqual(before.slice(Math.floor(before.length / 2) + 1));
    const last = cursorOf(before.at(-1));
    expect(await told(t, last)).toEqual([]);
    await t.must("namespaces", "label", t.namespace, "a=b");
    expect((await told(t, last)).map(topicOf)).toEqual(["/namespaces/update"]);
    // Since a time: nothing is older than that.
    expect(await told(t, new Date(Date.now() + 60_000).toISOString())).toEqual([]);
    expect((await told(t, new Date(Date.now() - 3_600_000).toISOString())).length).toBe(before.length + 1);

    const wrong = await t.ctr("events", "--since", "yesterday");
    expect(wrong).toMatchObject({ code: 1 });
    expect(wrong.stderr).toContain('--since "yesterday": neither a duration');
    const foreign = await t.ctr("events", "--since", "00000000-1");
    expect(foreign.stderr).toContain("it is of another log than this daemon's");
  },
);

row(
  "N05",
  "events --since on a daemon that keeps no log says so",
  {
    casts: ["our-ctr", "ours"],
    config: { ours: '[plugins."stevedore.events.v1.log"]\n  max_events = 0\n' },
  },
  async (t) => {
    const ran = await t.ctr("events", "--since", "10m");
    expect(ran).toMatchObject({ code: 1, stdout: "" });
    expect(ran.stderr).toContain("this daemon keeps no event log");
    // Events as they come are there all the same.
    const events = t.start("events");
    await eventually("an event", async () => {
      await t.must("namespaces", "label", t.namespace, `now=${Date.now()}`);
      return events.stdout().includes("/namespaces/update") ? true : undefined;
    });
  },
);

row(
  "N05",
  "the log keeps no more than it may, and a cursor of what is gone is refused",
  {
    casts: ["ours"],
    source: OWN,
    config: {
      ours: '[plugins."stevedore.events.v1.log"]\n  max_events = 20\n  max_bytes = 100000\n  max_age = "1h"\n',
    },
  },
  async (t) => {
    await withClient(t, async (client) => {
      const context = { signal: AbortSignal.timeout(30_000), namespace: t.namespace };
      const first = await client.eventLog.info(context);
      for (let i = 0; i < 60; i++) {
        await client.events.publish(context, `/test/n${i}`, { typeUrl: "test", value: new Uint8Array(10) });
      }
      const all = async (): Promise<ReplayedEvent[]> =>
        Array.fromAsync(client.eventLog.replay(context, { from: { kind: "oldest" }, filters: [], follow: false }));
      const kept = await all();
      expect(kept.length).toBeGreaterThanOrEqual(20);
      expect(kept.length).toBeLessThanOrEqual(22);
      expect(kept.at(-1)?.envelope.topic).toBe("/test/n59");
      const gone = await t.ctr("events", "--since", first.newest, "--no-follow");
      expect(gone).toMatchObject({ code: 1 });
      expect(gone.stderr).toContain("the next events are not kept any more");
      // Bytes count too.
      const big = { typeUrl: "test", value: new Uint8Array(40_000) };
      for (let i = 0; i < 5; i++) await client.events.publish(context, "/test/big", big);
      expect((await all()).length).toBeLessThanOrEqual(2);
    });
  },
);

row(
  "N05",
  "a follower of the SDK goes on after its daemon was killed, and after it was stopped: nothing is lost, nothing comes twice",
  { casts: ["ours"], source: OWN, ownDaemon: true },
  async (t) => {
    await withClient(t, async (client) => {
      const stop = new AbortController();
      const context = { signal: stop.signal, namespace: t.namespace };
      const from = { kind: "after", cursor: (await client.eventLog.info(context)).newest } as const;
      const got: ReplayedEvent[] = [];
      const following = (async (): Promise<void> => {
        const filters = ["topic~=|^/test/|"];
        for await (const event of client.eventLog.replay(context, { from, filters, follow: true })) got.push(event);
      })();
      const sent: string[] = [];
      const send = async (count: number): Promise<void> => {
        await withClient(t, async (other) => {
          for (let i = 0; i < count; i++) {
            const topic = `/test/n${sent.length}`;
            await other.events.publish(context, topic, { typeUrl: "test", value: new Uint8Array() });
            sent.push(topic);
          }
        });
      };
      for (let round = 0; round < 3; round++) {
        await send(50);
        if (round > 0) await eventually("some of them", () => (got.length > 50 ? true : undefined));
        await t.daemon.stop(round === 1 ? "SIGTERM" : "SIGKILL");
        await t.daemon.launch();
      }
      await send(10);
      await eventually("all of them", () => (got.length >= sent.length ? true : undefined), 15_000);
      stop.abort();
      await following.catch(() => undefined);
      expect(got.map(({ envelope }) => envelope.topic)).toEqual(sent);
      expect(new Set(got.map(({ cursor }) => cursor)).size).toBe(sent.length);
    });
  },
);

row(
  "N05",
  "a subscriber that does not read costs the daemon nothing, and gets everything when it does",
  {
    casts: ["ours"],
    source: OWN,
    config: {
      ours: `[debug]\n  address = "${DEBUG_SOCKET}"\n[plugins."stevedore.events.v1.log"]\n  max_bytes = 1000000000\n`,
    },
  },
  async (t) => {
    // MiB after a collection, of the heap and of all else.
    const memory = async (): Promise<number> =>
      (await heldAfterCollection(t.daemon.pid, DEBUG_SOCKET)).kibibytes / 1024;
    await withClient(t, async (slow) => {
      await withClient(t, async (client) => {
        const context = { signal: AbortSignal.timeout(50_000), namespace: t.namespace };
        const events = slow.events.subscribe(context, ['topic=="/test/big"'])[Symbol.asyncIterator]();
        const first = events.next();
        const payload = { typeUrl: "test", value: new Uint8Array(65_536) };
        // It exists when its first event has come.
        await eventually("the subscription", async () => {
          await client.events.publish(context, "/test/big", payload);
          return Promise.race([first.then(() => true), Bun.sleep(50).then(() => undefined)]);
        });
        const marked = { typeUrl: "last", value: new Uint8Array() };
        const publish = async (count: number): Promise<void> => {
          for (let i = 0; i < count; i += 50) {
            await Promise.all(Array.from({ length: 50 }, () => client.events.publish(context, "/test/big", payload)));
          }
        };
        // What is queued would grow by 94 MiB.
        await publish(500);
        const before = await memory();
        await publish(1_500);
        await client.events.publish(context, "/test/big", marked);
        expect((await memory()) - before).toBeLessThan(47);
        let got = 0;
        for (;;) {
          const next = await events.next();
          if (next.done === true) throw new Error(`the subscription ended after ${got} events`);
          if (next.value.event.typeUrl === "last") break;
          got += 1;
        }
        expect(got).toBeGreaterThanOrEqual(2_000);
      });
    });
  },
);

row(
  "N05",
  "the events service of shims: Forward over ttrpc keeps the envelope as it is",
  { casts: ["peer", "ours"], covers: ["rpc:containerd.services.events.ttrpc.v1.Events/Forward"] },
  async (t) => {
    const events = t.start("events");
    const shim = new TtrpcClient(await connectUnix(`${t.daemon.address}.ttrpc`));
    try {
      const forward = async (topic: string, seconds = 1_700_000_000n): Promise<unknown> =>
        shim.call(
          "containerd.services.events.ttrpc.v1.Events",
          "Forward",
          encodeMessage(
            ForwardRequestSchema,
            makeMessage(ForwardRequestSchema, {
              envelope: {
                timestamp: { seconds, nanos: 123_456_789 },
                namespace: t.namespace,
                topic,
                event: {
                  typeUrl: TaskExitSchema.typeName,
                  value: encodeMessage(
                    TaskExitSchema,
                    makeMessage(TaskExitSchema, { containerId: "c", id: "c", pid: 7, exitStatus: 9 }),
                  ),
                },
              },
            }),
          ),
          { timeoutMs: 5_000, metadata: [["containerd-namespace-ttrpc", t.namespace]] },
        );
      // A subscriber hears from its own beginning on; other topics lead up to it.
      await eventually("the subscription", async () => {
        await forward("/test/before");
        return events.stdout().includes("/test/before") ? true : undefined;
      });
      await forward("/tasks/exit");
      const line = await eventually("the event", () =>
        events
          .stdout()
          .split("\n")
          .find((one) => one.includes("/tasks/exit")),
      );
      expect(line).toStartWith(`2023-11-14 22:13:20.123456789 +0000 UTC ${t.namespace} /tasks/exit `);
      expect(line).toContain('"exit_status":9');
      await expect(forward("no slash")).rejects.toThrow("must start with '/'");
      if (t.cast.daemon === "debian") return;
      // Ours tells of a process's end once, whoever repeats it, also at another time and after a restart.
      await forward("/tasks/exit");
      await forward("/tasks/exit", 1_700_000_001n);
      await forward("/test/after");
      await eventually("what follows", () => (events.stdout().includes("/test/after") ? true : undefined));
      expect(events.stdout().match(/\/tasks\/exit/g)).toHaveLength(1);
    } finally {
      shim.close();
    }
  },
);
