/** `containerd-stress`: how many containers a second a daemon makes and removes, and how dense they stand. */
import { classified } from "@stevedore/base";
import type { CommandEntry, CommandIO } from "../kit/command.ts";
import { boolFlag, durationFlag, intFlag, stringFlag } from "../kit/flags.ts";
import { type Program, runProgram } from "../kit/program.ts";
import { VERSION } from "../version.ts";
import { type StressSettings, stressLog } from "./settings.ts";

const FLAGS = {
  debug: boolFlag("debug", "Set debug output in the logs"),
  address: stringFlag("address", "Path to the containerd socket", {
    aliases: ["a"],
    initial: "/run/containerd/containerd.sock",
  }),
  concurrent: intFlag("concurrent", "Set the concurrency of the stress test", { aliases: ["c"], initial: 1 }),
  cri: boolFlag(
    "cri",
    "Utilize CRI to create pods for the stress test. This requires a runtime that matches CRI runtime handler. Example: --runtime runc",
  ),
  duration: durationFlag("duration", "Set the duration of the stress test", { aliases: ["d"], initialMs: 60_000 }),
  exec: boolFlag("exec", "Add execs to the stress tests (non-CRI only)"),
  image: stringFlag("image", "Image to be utilized for testing", {
    aliases: ["i"],
    initial: "docker.io/library/alpine:latest",
  }),
  json: boolFlag("json", "Output results in json format", { aliases: ["j"] }),
  metrics: stringFlag("metrics", "Address to serve the metrics API", { aliases: ["m"] }),
  runtime: stringFlag("runtime", "Set the runtime to stress test", { initial: "io.containerd.runc.v2" }),
  snapshotter: stringFlag("snapshotter", "Set the snapshotter to use", { initial: "overlayfs" }),
};

const COMMANDS: readonly CommandEntry<StressSettings>[] = [
  {
    names: ["density"],
    usage: "Stress tests density of containers running on a system",
    load: async () => (await import("./density.ts")).command,
  },
];

/** `containerd-stress` as data. */
export const STRESS: Program<typeof FLAGS, StressSettings> = {
  name: "containerd-stress",
  usage: "stress test a containerd daemon",
  version: VERSION.version,
  versionLine: `containerd-stress ${VERSION.package} ${VERSION.version}`,
  description: "stress test a containerd daemon",
  // The peer prints the bare error.
  errorPrefix: "",
  flags: FLAGS,
  commands: COMMANDS,
  globals: ({ duration, debug, ...flags }, io) => ({
    ...flags,
    durationMs: duration,
    log: stressLog(io, { json: flags.json, debug }),
  }),
  defaultAction: async (settings, io) => {
    if (settings.cri)
      throw classified(
        "not-implemented",
        "--cri is not in this version, it waits for the CRI service: not implemented",
      );
    if (settings.concurrent < 1)
      throw classified("invalid-argument", `--concurrent ${settings.concurrent} makes no worker: invalid argument`);
    const { stress } = await import("./stress.ts");
    return stress(settings, io);
  },
};

/** Runs `containerd-stress` with these arguments (program name left out) and returns the exit code. */
export async function runContainerdStress(argv: readonly string[], io: CommandIO): Promise<number> {
  return runProgram(STRESS, argv, io);
}
