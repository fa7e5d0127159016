import { expect, test } from "bun:test";
import { backgroundContext } from "@stevedore/base";
import type { Client } from "../client.ts";
import { GID_MAPPING_LABEL, UID_MAPPING_LABEL } from "./mapping-labels.ts";
import { labelledOwners } from "./remapped-snapshot.ts";

const context = backgroundContext();
const labels = { [UID_MAPPING_LABEL]: "0:100:10,10:500:1", [GID_MAPPING_LABEL]: "0:200:10" };

/** A client of a daemon whose snapshotter `some` has these capabilities. */
function clientWith(...capabilities: string[]): Pick<Client, "introspection"> {
  return {
    introspection: {
      plugins: async (_context, filters) => {
        expect(filters).toEqual(["type==io.containerd.snapshotter.v1, id==some"]);
        return [
          { type: "io.containerd.snapshotter.v1", id: "some", requires: [], platforms: [], exports: {}, capabilities },
        ];
      },
      runtime: async () => Promise.reject(new Error("not asked")),
      server: async () => Promise.reject(new Error("not asked")),
    },
  };
}

test("a snapshotter that maps owners is left to do it", async () => {
  const client = clientWith("remap-ids", "only-remap-ids", "rebase");
  expect(await labelledOwners(client, context, { snapshotter: "some", labels })).toBeUndefined();
});

test("one that could but for the kernel says how a copy is allowed", async () => {
  const asked = labelledOwners(clientWith("only-remap-ids", "rebase"), context, { snapshotter: "some", labels });
  await expect(asked).rejects.toThrow(
    'snapshotter "some" doesn\'t support idmap mounts on this host, configure `slow_chown` to allow a slower and expensive fallback',
  );
});

test("for any other the client copies, with the owners of the labels", async () => {
  expect(await labelledOwners(clientWith("rebase"), context, { snapshotter: "some", labels })).toEqual({
    uid: [
      { containerID: 0, hostID: 100, size: 10 },
      { containerID: 10, hostID: 500, size: 1 },
    ],
    gid: [{ containerID: 0, hostID: 200, size: 10 }],
  });
  const bad = { ...labels, [UID_MAPPING_LABEL]: "0:1" };
  await expect(labelledOwners(clientWith(), context, { snapshotter: "some", labels: bad })).rejects.toThrow(
    '"0:1" is no list of container:host:size',
  );
});
