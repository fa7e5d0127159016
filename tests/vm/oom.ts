// A container that takes more memory than it has, and what is told of it.
import type { GuestStage } from "../harness/vm/row.ts";

/**
 * Runs one with a limit of `bytes`, and gives the status of `ctr run` and the topics of its events of the two kinds `/tasks/oom` and `/tasks/exit`, in order, each
 * once: how often the kernel kills before init goes is its own.
 */
export async function oomTopics(
  t: GuestStage,
  bytes: number,
): Promise<{ readonly code: number; readonly topics: readonly string[] }> {
  await t.must('(ctr events >"$dir/$id.events" 2>&1 & echo $! >"$dir/$id.pid")');
  // Until an event of something else shows that the subscription is there.
  await t.must(
    'there() { ctr containers create $image "probe-$RANDOM" >/dev/null; grep -q /containers/create "$dir/$id.events"; }; until_true there',
  );
  const { code } = await t.sh(
    `ctr run --memory-limit ${bytes} $image $id sh -c 'x=0123456789; while :; do x=$x$x; done'`,
  );
  const events = await t.must(
    'seen() { grep -q /tasks/exit "$dir/$id.events"; }; until_true seen; kill "$(cat "$dir/$id.pid")"; cat "$dir/$id.events"',
  );
  const topics = events
    .split("\n")
    .filter((line) => line.includes(`"${t.id}"`))
    .map((line) => / (\/tasks\/(?:oom|exit)) /.exec(line)?.[1])
    .filter((topic) => topic !== undefined);
  return { code, topics: [...new Set(topics)] };
}
