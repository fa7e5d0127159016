import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { classified } from "@stevedore/base";
import { createLogger } from "@stevedore/base/log";
import { Server } from "@stevedore/ttrpc";
import { listenUnix } from "@stevedore/ttrpc/socket";
import { decodeMessage } from "@stevedore/wire/codec";
import { ForwardRequestSchema } from "@stevedore/wire/gen/light/containerd/services/events/ttrpc/v1/events_pb";
import { EventPublisher } from "./events.ts";

let dir = "";
const cleanup: (() => Promise<void> | void)[] = [];
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "events-"));
});
afterEach(async () => {
  for (const undo of cleanup.splice(0).reverse()) await undo();
  await rm(dir, { recursive: true });
});

/** What a daemon at the socket was told, in order; `refuse` how often it refuses first. */
function daemon(refuse = 0): string[] {
  const topics: string[] = [];
  const server = new Server();
  let left = refuse;
  server.register("containerd.services.events.ttrpc.v1.Events", {
    Forward: {
      kind: "unary",
      call: async (payload) => {
        if (left > 0) {
          left -= 1;
          throw classified("internal", "not now");
        }
        topics.push(decodeMessage(ForwardRequestSchema, payload).envelope?.topic ?? "");
        return new Uint8Array();
      },
    },
  });
  const listener = listenUnix(join(dir, "s"), { accept: (carrier) => server.serve(carrier) });
  cleanup.push(() => listener.stop());
  return topics;
}

function publisher(): EventPublisher {
  const made = new EventPublisher({
    namespace: "n",
    ttrpcAddress: join(dir, "s"),
    publishBinary: "",
    grpcAddress: "",
    env: {},
    log: createLogger(),
    retryMs: 5,
  });
  cleanup.push(() => made.close(100));
  return made;
}

async function until(topics: readonly string[], count: number): Promise<void> {
  for (let tries = 0; topics.length < count && tries < 500; tries += 1) await Bun.sleep(10);
}

test("events wait for a daemon that is not there, for longer than they would for one that refuses them", async () => {
  const events = publisher();
  let taken = 0;
  events.send("TaskExit", { containerId: "c", id: "c", pid: 7, exitStatus: 3 }, () => taken++);
  events.send("TaskDelete", { containerId: "c", pid: 7, exitStatus: 3 }, () => taken++);
  // More than the sum of all pauses between the tries of an event that is refused.
  await Bun.sleep(150);
  expect(taken).toBe(0);
  const topics = daemon();
  await until(topics, 2);
  expect(topics).toEqual(["/tasks/exit", "/tasks/delete"]);
});

test("one that a daemon goes on refusing is given up, and the next ones come", async () => {
  const topics = daemon(6);
  const events = publisher();
  events.send("TaskExit", { containerId: "c", id: "c", pid: 7, exitStatus: 3 });
  events.send("TaskDelete", { containerId: "c", pid: 7, exitStatus: 3 });
  await until(topics, 1);
  expect(topics).toEqual(["/tasks/delete"]);
});

test("a shim that ends does not wait for a daemon", async () => {
  const events = publisher();
  events.send("TaskExit", { containerId: "c", id: "c", pid: 7, exitStatus: 3 });
  const began = performance.now();
  await events.close(5_000);
  expect(performance.now() - began).toBeLessThan(4_000);
});
