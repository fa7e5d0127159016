// The cases of tests/e2e/shim-death.test.ts on a kernel without PIDFD_INFO_EXIT: who takes over from a dead shim has no exit from the kernel there.
import { expect } from "bun:test";
import { guestWorld } from "../harness/vm/row.ts";

const world = guestWorld({ kind: "small" });

const FILE = "./tests/e2e/shim-death.test.ts";
const LEAKS = "/run/guest/leaks";
const LIMIT_MS = 3_600_000;

type Part = {
  readonly title: string;
  /** Of the file's cases. */
  readonly pattern: string;
  readonly seconds: number;
  readonly waits?: string;
};

const PARTS: readonly Part[] = [
  {
    title: "another shim takes over from one that is killed: output, input, terminals, log files, exit codes",
    pattern: "F31: (another|input|a terminal|a log file).* \\[ours\\]",
    seconds: 55,
  },
  {
    title: "stopped shims keep no task from being deleted, and nobody else waits for them",
    pattern: "F30: .* \\[ours\\]|F31: beside",
    seconds: 60,
  },
  {
    title: "nothing is lost or left when somebody dies at any phase of a container's life",
    pattern: "F31: (nothing is lost|the keeper alone)",
    seconds: 240,
    waits: "not yet seen to run to its end: decision 0131",
  },
];

for (const { title, pattern, ...options } of PARTS) {
  world.plain("F31 B07", `on Debian's kernel: ${title}`, options, async (guest) => {
    expect((await guest.must("uname -r")).startsWith("6.1.")).toBe(true);
    const ran = await guest.tool(["bun", "test", FILE, `--test-name-pattern=${pattern}`], {
      env: { STEVEDORE_SIDE: "product", STEVEDORE_LEAKS: LEAKS },
      timeoutMs: LIMIT_MS,
    });
    if (ran.code !== 0) throw new Error(`in the guest, status ${ran.code}:\n${ran.stdout}`);
    expect(ran.stdout).toMatch(/^ [1-9]\d* pass$/m);
    expect(await guest.must(`cat ${LEAKS} 2>/dev/null; true`)).toBe("");
  });
}

world.leavesNothing();
