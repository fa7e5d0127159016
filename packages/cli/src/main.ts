/**
 * The one binary. It answers by the name it is called with, or by its first argument (`stevedore ctr ...`), and loads
 * only that program's modules.
 */
import { messageOf } from "@stevedore/base/errors";
import { compileAsUsual, compileAsUsualAfter, compileAsUsualAfterUse } from "./jit.ts";

/** Start-up is over then: the daemon serves after a tenth of this. */
const DAEMON_STARTS_MS = 1000;
/** Processor time that no command needs which only asks the daemon something; what needs more is an import, an export or a stream. */
const COMMAND_IS_SHORT_MS = 100;

/** A program of the binary: takes its arguments, without a program name, and resolves to the exit code. */
type Entry = (argv: readonly string[]) => Promise<number>;

const PROGRAMS: Readonly<Record<string, Entry>> = {
  containerd: async (argv) => {
    compileAsUsualAfter(DAEMON_STARTS_MS);
    const [{ runContainerd }, { processIO }] = await Promise.all([
      import("./containerd/main.ts"),
      import("./process-io.ts"),
    ]);
    return runContainerd(argv, processIO());
  },
  ctr: async (argv) => {
    const { asksForPage, ctrPage } = await import("./ctr/page.ts");
    if (asksForPage(argv)) {
      (await import("./kit/output.ts")).descriptorOutput(1).write(ctrPage());
      return 0;
    }
    compileAsUsualAfterUse(COMMAND_IS_SHORT_MS);
    const [{ runCtr }, { processIO }] = await Promise.all([import("./ctr/main.ts"), import("./process-io.ts")]);
    return runCtr(argv, processIO({ interruptible: true }));
  },
  "containerd-stress": async (argv) => {
    compileAsUsualAfterUse(COMMAND_IS_SHORT_MS);
    const [{ runContainerdStress }, { processIO }] = await Promise.all([
      import("./containerd-stress/main.ts"),
      import("./process-io.ts"),
    ]);
    return runContainerdStress(argv, processIO({ interruptible: true }));
  },
  "containerd-shim-runc-v2": async (argv) => (await import("@stevedore/shim/main")).runShim(argv),
};

/** Parts that the programs start as processes of their own; users have no business with them. */
const PARTS: Readonly<Record<string, Entry>> = {
  "os-one-shot": async () => (await import("@stevedore/os/one-shot-main")).oneShotMain(),
  keeper: async (argv) => (await import("@stevedore/keeper/main")).runKeeper(argv),
  "unpack-worker": async (argv) => {
    compileAsUsual();
    return (await import("@stevedore/worker")).runUnpackWorker(argv);
  },
};

const USAGE = `Usage: stevedore PROGRAM [ARGUMENT...]

       stevedore image verify [IMAGE ...]
       stevedore image repair IMAGE
       stevedore registry explain IMAGE

Programs: ${Object.keys(PROGRAMS).join(", ")}

Each is also called by its own name, through a link to this binary.
`;

function lookUp(name: string): Entry | undefined {
  return Object.hasOwn(PROGRAMS, name) ? PROGRAMS[name] : undefined;
}

async function dispatch(): Promise<number> {
  const argv = process.argv.slice(2);
  const called = process.argv0.slice(process.argv0.lastIndexOf("/") + 1);
  const byName = lookUp(called);
  if (byName !== undefined) return byName(argv);
  const [name = "", ...rest] = argv;
  const entry = lookUp(name) ?? (Object.hasOwn(PARTS, name) ? PARTS[name] : undefined);
  if (entry !== undefined) return entry(rest);
  if (name === "--version" || name === "-v" || name === "version") {
    const { VERSION } = await import("./version.ts");
    process.stdout.write(`stevedore ${VERSION.version} ${VERSION.revision}\n`);
    return 0;
  }
  const asked = name === "" || name === "--help" || name === "-h" || name === "help";
  if (!asked) return ownCommand(argv, name);
  process.stdout.write(USAGE);
  return 0;
}

/** A command of `stevedore` itself, with its global flags in front or not. */
async function ownCommand(argv: readonly string[], name: string): Promise<number> {
  const { STEVEDORE_COMMANDS, runStevedore } = await import("./stevedore/main.ts");
  if (name.startsWith("-") || STEVEDORE_COMMANDS.has(name)) {
    return runStevedore(argv, (await import("./process-io.ts")).processIO({ interruptible: true }));
  }
  process.stderr.write(`stevedore: no program "${name}"\n${USAGE}`);
  return 1;
}

dispatch().then(
  (code) => process.exit(code),
  (error: unknown) => {
    process.stderr.write(`stevedore: ${messageOf(error)}\n`);
    process.exit(1);
  },
);
