// 1,000 containers that print and exit at once; fewer when the lane's time is too short for them.
import { LANE_MS } from "../crash/leftovers.ts";
import { printAndExit } from "../harness/exits.ts";
import { row } from "../harness/row.ts";

/** Part of the time in which containers are started; the rest is for their ends. */
const STARTING = 0.6;
const MOST = 1_000;

row(
  "G27",
  "1,000 containers that print and exit at once: output, codes and events are exact (G20 G28)",
  { casts: ["ours"], source: "issue 4 asks for it", ownDaemon: true, timeoutMs: LANE_MS + 600_000 },
  async (t) => {
    const count = await printAndExit(t, {
      most: MOST,
      parallel: 8,
      startMs: LANE_MS * STARTING,
      byCalls: true,
    });
    process.stdout.write(`${count} containers printed and exited at once\n`);
  },
);
