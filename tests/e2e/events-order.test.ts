// The events of containers' lives when many share a shim and end at once: each exactly once, in its order, over a kill of the
// daemon too.
import { expect } from "bun:test";
import type { Envelope } from "@stevedore/sdk/types";
import { byContainer, printAndExit, withClient } from "../harness/exits.ts";
import { eachOf, Gate } from "../harness/gate.ts";
import { eventually } from "../harness/process.ts";
import { row } from "../harness/row.ts";

const COUNT = 6;
const LIFE = ["create", "start", "exec-added e", "exec-started e", "exit e", "exit", "delete"];

row(
  "G20",
  "several containers that end at once: events of each in order, none lost, none twice (G23 G27 G28)",
  { casts: ["peer", "ours", "our-shim", "their-shim"], timeoutMs: 120_000 },
  async (t) => {
    const image = await t.image();
    await using gate = await Gate.make(t.path(t.id("gate")));
    await withClient(t, async (client) => {
      const stop = new AbortController();
      const context = { signal: stop.signal, namespace: t.namespace };
      const told: Envelope[] = [];
      const listening = (async (): Promise<void> => {
        for await (const event of client.events.subscribe(context, [`namespace=="${t.namespace}"`])) told.push(event);
      })();
      await eventually("the subscription", async () => {
        await t.must("namespaces", "label", t.namespace, "now=yes");
        return told.length > 0 ? true : undefined;
      });
      const id = (index: number): string => t.id(`c${index}`);
      await eachOf(COUNT, 3, async (index) => {
        await t.must(
          "run",
          "-d",
          "--null-io",
          "--mount",
          gate.mount,
          image,
          id(index),
          "sh",
          "-c",
          `${Gate.wait}; exit ${index}`,
        );
        const exec = ["tasks", "exec", "--exec-id", "e", id(index), "sh", "-c", `exit ${index + 50}`];
        expect((await t.ctr(...exec)).code).toBe(index + 50);
      });
      const ends = Array.from({ length: COUNT }, (_, index) =>
        client.tasks.wait(context, { containerId: id(index), execId: "" }),
      );
      gate.open();
      expect((await Promise.all(ends)).map(({ exitStatus }) => exitStatus)).toEqual([0, 1, 2, 3, 4, 5]);
      await eachOf(COUNT, COUNT, async (index) => {
        await client.tasks.delete(context, { containerId: id(index), execId: "" });
      });
      const deleted = (): number => told.filter(({ topic }) => topic === "/tasks/delete").length;
      await eventually("all events", () => (deleted() >= COUNT ? true : undefined));
      for (let index = 0; index < COUNT; index++) expect(byContainer(told).get(id(index))).toEqual(LIFE);
      stop.abort();
      await listening.catch(() => undefined);
    });
  },
);

row(
  "G27",
  "containers that end while the daemon is dead and while it starts: the log has each event once, in order (G20 G28)",
  {
    casts: ["ours", "their-shim"],
    source: "Stevedore's own: the log of events, docs/decisions/0140-event-log.md",
    ownDaemon: true,
    timeoutMs: 120_000,
  },
  async (t) => {
    const image = await t.image();
    const id = (index: number): string => t.id(`c${index}`);
    const code = (index: number): number => 10 + index;
    const gates = await Promise.all([0, 1, 2].map(async (n) => Gate.make(t.path(t.id(`gate${n}`)))));
    await using _first = gates[0];
    await using _second = gates[1];
    await using _third = gates[2];
    await eachOf(COUNT, 3, async (index) => {
      const mount = gates[index % gates.length]?.mount ?? "";
      await t.must(
        "run",
        "-d",
        "--null-io",
        "--mount",
        mount,
        image,
        id(index),
        "sh",
        "-c",
        `${Gate.wait}; exit ${code(index)}`,
      );
    });
    // A third ends as the daemon is killed, a third while there is none, a third as the next one starts.
    gates[0]?.open();
    await t.daemon.stop("SIGKILL");
    gates[1]?.open();
    await Bun.sleep(200);
    const launching = t.daemon.launch();
    gates[2]?.open();
    await launching;
    await withClient(t, async (client) => {
      const context = { signal: AbortSignal.timeout(60_000), namespace: t.namespace };
      const codes = await Promise.all(
        Array.from({ length: COUNT }, (_, index) => client.tasks.wait(context, { containerId: id(index), execId: "" })),
      );
      expect(codes.map(({ exitStatus }) => exitStatus)).toEqual(
        Array.from({ length: COUNT }, (_, index) => code(index)),
      );
      const filters = [`namespace=="${t.namespace}"`];
      const kept = async (): Promise<Envelope[]> => {
        const events = client.eventLog.replay(context, { from: { kind: "oldest" }, filters, follow: false });
        return (await Array.fromAsync(events)).map(({ envelope }) => envelope);
      };
      const count = async (topic: string): Promise<number> =>
        (await kept()).filter((event) => event.topic === topic).length;
      // Shims try again after a second, then after two more.
      await eventually("the ends", async () => ((await count("/tasks/exit")) >= COUNT ? true : undefined), 30_000);
      await eachOf(COUNT, COUNT, async (index) => {
        const ended = await client.tasks.delete(context, { containerId: id(index), execId: "" });
        expect(ended.exitStatus).toBe(code(index));
      });
      await eventually("the deletes", async () => ((await count("/tasks/delete")) >= COUNT ? true : undefined), 30_000);
      const words = byContainer(await kept());
      for (let index = 0; index < COUNT; index++) {
        expect([id(index), words.get(id(index))]).toEqual([id(index), ["create", "start", "exit", "delete"]]);
      }
    });
  },
);

row(
  "G27",
  "100 containers that print and exit at once: output, codes and events are exact (G20 G28)",
  { casts: ["ours"], source: "issue 4 asks for it; 1,000 are in the scale lane", timeoutMs: 400_000 },
  async (t) => {
    await printAndExit(t, { most: 100, parallel: 4 });
  },
);
