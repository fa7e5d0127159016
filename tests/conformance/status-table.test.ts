// The status table: what clients are told, method by method, by Debian's containerd and by us. The texts are its recorded ones; where
// containerd 2.3.4 says something else, `newer` says what and by which source, and our daemon is held to that.
// @covers rpc:containerd.services.containers.v1.Containers/*, rpc:containerd.services.content.v1.Content/*, rpc:containerd.services.diff.v1.Diff/*
// @covers rpc:containerd.services.events.v1.Events/*, rpc:containerd.services.images.v1.Images/*, rpc:containerd.services.leases.v1.Leases/*
// @covers rpc:containerd.services.introspection.v1.Introspection/*, rpc:containerd.services.namespaces.v1.Namespaces/*
// @covers rpc:containerd.services.snapshots.v1.Snapshots/*, rpc:containerd.services.tasks.v1.Tasks/*, rpc:containerd.services.version.v1.Version/*
// @covers rpc:grpc.health.v1.Health/*
import { afterAll, describe, expect, test } from "bun:test";
import { Daemon, type Maker } from "../harness/daemon.ts";
import { CASES, KINDS, SERVICES } from "./status-cases.ts";
import table from "./status-table.json";
import { type Told, World } from "./status-world.ts";

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

const side = process.env["STEVEDORE_SIDE"];
const MAKERS: readonly Maker[] = side === "peer" ? ["debian"] : side === "product" ? ["ours"] : ["debian", "ours"];
const CASE_LIMIT_MS = 60_000;

for (const maker of MAKERS) {
  describe(`status table [${maker === "debian" ? "peer" : "ours"}]`, () => {
    for (const [method, cases] of Object.entries(CASES)) {
      for (const kind of KINDS) {
        const run = cases[kind];
        const row = ROWS.get(`${method} ${kind}`);
        if (typeof run === "string" || row === undefined) continue;
        const { source: _source, ...newer } = row.newer ?? { ...row.peer, source: "" };
        test(
          `${method} ${kind}`,
          async () => {
            await using world = await World.open(await daemonOf(maker));
            expect(await world.tell(run)).toEqual(maker === "debian" ? row.peer : newer);
          },
          CASE_LIMIT_MS,
        );
      }
    }
  });
}
