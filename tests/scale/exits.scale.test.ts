// 1,000 containers that print and exit at once.
import { printAndExit } from "../harness/exits.ts";
import { row } from "../harness/row.ts";

row(
  "G27",
  "1,000 containers that print and exit at once: output, codes and events are exact (G20 G28)",
  { casts: ["ours"], source: "issue 4 asks for it", ownDaemon: true, timeoutMs: 3_600_000 },
  async (t) => printAndExit(t, 1_000, 4),
);
