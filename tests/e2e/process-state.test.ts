// The state of a container's first process as the kernel shows it, equal for every cast: a golden record of the peer's.
import { expect } from "bun:test";
import { readFile } from "node:fs/promises";
import { row, type Stage } from "../harness/row.ts";

/** What does not depend on the machine, of /proc/self/status. */
const STATUS_KEYS = [
  "Uid",
  "Gid",
  "Groups",
  "Umask",
  "NoNewPrivs",
  "Seccomp",
  "CapInh",
  "CapPrm",
  "CapEff",
  "CapBnd",
  "CapAmb",
  "SigBlk",
  "SigIgn",
  "SigCgt",
];

/** The 14 capabilities of containerd's default specification: bits 0, 1, 3-8, 10, 13, 18, 27, 29 and 31. */
const DEFAULT_CAPABILITIES = "00000000a80425fb";
const NO_CAPABILITIES = "0000000000000000";

/** A signal mask without the real-time signals. */
const standardSignals = (mask: string): string => (BigInt(`0x${mask}`) & 0x7fff_ffffn).toString(16).padStart(16, "0");

async function statusOf(t: Stage, ...flags: string[]): Promise<Record<string, string>> {
  const text = await t.must("run", "--rm", ...flags, await t.image(), t.id("c"), "cat", "/proc/self/status");
  const found: Record<string, string> = {};
  for (const line of text.split("\n")) {
    const [key = "", value = ""] = line.split(":");
    if (STATUS_KEYS.includes(key)) found[key] = value.trim().replaceAll("\t", " ");
  }
  return found;
}

row("F04", "the state of the first process: ids, umask, capabilities, signals, seccomp", {}, async (t) => {
  const state = await statusOf(t);
  // Debian's daemon hands on what this test runner was started with: Bun leaves a signal that only glibc uses ignored.
  if (t.cast.shim === "debian") state["SigIgn"] = standardSignals(state["SigIgn"] ?? "");
  expect(state).toEqual({
    Uid: "0 0 0 0",
    Gid: "0 0 0 0",
    Groups: "0",
    Umask: "0022",
    NoNewPrivs: "1",
    Seccomp: "0",
    CapInh: NO_CAPABILITIES,
    CapPrm: DEFAULT_CAPABILITIES,
    CapEff: DEFAULT_CAPABILITIES,
    CapBnd: DEFAULT_CAPABILITIES,
    CapAmb: NO_CAPABILITIES,
    SigBlk: NO_CAPABILITIES,
    SigIgn: NO_CAPABILITIES,
    SigCgt: NO_CAPABILITIES,
  });
});

// The 1.6 client has no --user.
const NEWER_CLIENT = { casts: ["ours", "our-ctr"], covers: ["flag:ctr run --user"] } as const;

row("F04", "a user has the groups of the image's files and no capability in effect", NEWER_CLIENT, async (t) => {
  const state = await statusOf(t, "--user", "user");
  expect(state).toMatchObject({ Uid: "1000 1000 1000 1000", CapPrm: NO_CAPABILITIES, CapEff: NO_CAPABILITIES });
  expect(state["Gid"]).toBe("1000 1000 1000 1000");
});

row("F04", "descriptors: three of stdio and nothing inherited", {}, async (t) => {
  const listed = await t.must("run", "--rm", await t.image(), t.id("c"), "ls", "/proc/self/fd");
  // The fourth is the folder that ls reads.
  expect(listed.trim().split(/\s+/)).toEqual(["0", "1", "2", "3"]);
});

row("F04", "masked and read-only paths", {}, async (t) => {
  const shell =
    "cat /proc/keys /proc/timer_list; ls /sys/firmware; echo x > /proc/sys/kernel/domainname || echo refused";
  const ran = await t.ctr("run", "--rm", await t.image(), t.id("c"), "sh", "-c", shell);
  expect(ran).toMatchObject({ code: 0, stdout: "refused\n" });
});

row("F04", "the environment is the image's and nothing of the daemon or the shim", {}, async (t) => {
  const listed = await t.must("run", "--rm", "--env", "A=b", await t.image(), t.id("c"), "env");
  const names = listed.split("\n").flatMap((line) => (line === "" ? [] : [line.split("=")[0] ?? ""]));
  expect(names.toSorted()).toEqual(
    ["A", "HOME", "PATH", "SHLVL", "PWD"].filter((name) => names.includes(name)).toSorted(),
  );
  expect(names).toContain("A");
  expect(names).not.toContain("STEVEDORE_NOFILE");
});

row(
  "F04",
  "oom_score_adj is one above the daemon's, for the shim raises it; limits are the default's",
  {},
  async (t) => {
    const shell = "cat /proc/self/oom_score_adj; ulimit -Sn; ulimit -Hn; ulimit -c";
    const [adj, soft, hard] = (await t.must("run", "--rm", await t.image(), t.id("c"), "sh", "-c", shell)).split("\n");
    expect(Number(adj)).toBe(Number(await readFile("/proc/self/oom_score_adj", "utf8")) + 1);
    // containerd's default specification: RLIMIT_NOFILE 1024, both.
    expect([soft, hard]).toEqual(["1024", "1024"]);
  },
);

row("F10", "a namespace of its own of every kind but user", {}, async (t) => {
  const shell = "for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done";
  const inside = (await t.must("run", "--rm", await t.image(), t.id("c"), "sh", "-c", shell)).trim().split("\n");
  const host = await t.must("run", "--rm", "--net-host", await t.image(), t.id("d"), "sh", "-c", shell);
  const [, , , net, , user] = host.trim().split("\n");
  expect(inside).toHaveLength(7);
  expect(inside[3]).not.toBe(net ?? "");
  expect(inside[5]).toBe(user ?? "");
});
