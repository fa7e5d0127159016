// criu at work, on a kernel it knows: memory that goes on where it was, with Debian's containerd first.
import { expect } from "bun:test";
import { repository } from "../harness/daemon.ts";
import { type GuestStage, guestWorld } from "../harness/vm/row.ts";

const world = guestWorld({ kind: "small" });

/** Counts in its memory and writes where it is; a restored one goes on, a new one begins at 1. */
const COUNTS = "sh -c 'i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.1; done'";

/** Until a container's counter is above a number. @returns it */
async function counted(t: GuestStage, id: string, above: number): Promise<number> {
  const script = `root=/proc/$(pid ${id})/root; past() { [ "$(cat $root/count)" -gt ${above} ] 2>/dev/null; }; until_true past; cat $root/count`;
  return Number(await t.must(script));
}

const CRIU_SECONDS = 45;

for (const [how, flags] of [
  ["without streams", "--null-io"],
  ["with streams", ""],
] as const) {
  world.row(
    "F30",
    `tasks checkpoint --exit and containers restore --live: the memory goes on, ${how}`,
    { seconds: CRIU_SECONDS },
    async (t) => {
      // criu locks the network meanwhile, by iptables, which the guest has not.
      await t.must(`ln -sf ${repository}/build/docker/bin/ip*tables-restore $dir/bin/`);
      await t.must(`ctr run -d ${flags} $image $id ${COUNTS}`);
      await counted(t, t.id, 10);
      await t.must("ctr containers checkpoint --rw --image --task $id kept/$id:1");
      // It goes on, and the checkpoint is of then.
      expect(await t.must("ctr tasks ls")).toMatch(RegExp(`^${t.id}\\s+\\d+\\s+RUNNING`, "m"));
      const later = await counted(t, t.id, (await counted(t, t.id, 10)) + 20);
      await t.must("ctr tasks rm --force $id; ctr containers rm $id");
      await t.must("ctr containers restore --rw --live back-$id kept/$id:1");
      const first = await counted(t, `back-${t.id}`, 10);
      expect(first).toBeLessThan(later);
      expect(await t.must("ctr tasks exec --exec-id e back-$id cat /proc/1/cmdline | tr '\\0' ' '")).toContain(
        "sh -c i=0",
      );
      await t.must(
        "ctr tasks kill -s KILL back-$id; ended() { ctr tasks ls | grep -q 'back-.*STOPPED'; }; until_true ended",
      );
      // Debian's client warns of it, and ends with 0.
      const { code, stderr } = await t.sh("ctr tasks rm back-$id");
      expect(`status ${code} ${stderr}`).toMatch(/^status 137|exit code 137/);
    },
  );
}

world.leavesNothing();
