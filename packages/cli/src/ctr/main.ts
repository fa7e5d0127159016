/** `ctr`: the unsupported debug and administrative client. */
import { backgroundContext } from "@stevedore/base";
import type { CommandEntry, CommandIO } from "../kit/command.ts";
import { boolFlag, durationFlag, stringFlag } from "../kit/flags.ts";
import { type Program, runProgram } from "../kit/program.ts";
import { VERSION } from "../version.ts";
import type { CtrGlobals, Session } from "./globals.ts";

const FLAGS = {
  debug: boolFlag("debug", "enable debug output in logs"),
  address: stringFlag("address", "address for containerd's GRPC server", {
    aliases: ["a"],
    env: ["CONTAINERD_ADDRESS"],
    initial: "/run/containerd/containerd.sock",
  }),
  timeout: durationFlag("timeout", "total timeout for ctr commands"),
  connectTimeout: durationFlag("connect-timeout", "timeout for connecting to containerd"),
  namespace: stringFlag("namespace", "namespace to use with commands", {
    aliases: ["n"],
    env: ["CONTAINERD_NAMESPACE"],
    initial: "default",
  }),
};

const BANNER = `
        __
  _____/ /______
 / ___/ __/ ___/
/ /__/ /_/ /
\\___/\\__/_/

containerd CLI
`;

const DESCRIPTION = `
ctr is an unsupported debug and administrative client for interacting
with the containerd daemon. Because it is unsupported, the commands,
options, and operations are not guaranteed to be backward compatible or
stable from release to release of the containerd project.`;

const COMMANDS: readonly CommandEntry<CtrGlobals>[] = [
  {
    names: ["plugins", "plugin"],
    usage: "provides information about containerd plugins",
    load: async () => (await import("./plugins/group.ts")).command,
  },
  {
    names: ["version"],
    usage: "print the client and server versions",
    load: async () => (await import("./version.ts")).command,
  },
  {
    names: ["containers", "c", "container"],
    usage: "manage containers",
    load: async () => (await import("./containers/group.ts")).command,
  },
  { names: ["content"], usage: "manage content", load: async () => (await import("./content/group.ts")).command },
  {
    names: ["events", "event"],
    usage: "display containerd events",
    load: async () => (await import("./events.ts")).command,
  },
  {
    names: ["images", "image", "i"],
    usage: "manage images",
    load: async () => (await import("./images/group.ts")).command,
  },
  { names: ["leases"], usage: "manage leases", load: async () => (await import("./leases/group.ts")).command },
  {
    names: ["namespaces", "namespace", "ns"],
    usage: "manage namespaces",
    load: async () => (await import("./namespaces/group.ts")).command,
  },
  {
    names: ["pprof"],
    usage: "provide golang pprof outputs for containerd",
    load: async () => (await import("./pprof/group.ts")).command,
  },
  { names: ["run"], usage: "run a container", load: async () => (await import("./run.ts")).command },
  {
    names: ["snapshots", "snapshot"],
    usage: "manage snapshots",
    load: async () => (await import("./snapshots/group.ts")).command,
  },
  {
    names: ["tasks", "t", "task"],
    usage: "manage tasks",
    load: async () => (await import("./tasks/group.ts")).command,
  },
  { names: ["install"], usage: "install a new package", load: async () => (await import("./install.ts")).command },
  { names: ["oci"], usage: "OCI tools", load: async () => (await import("./oci/group.ts")).command },
  {
    names: ["sandboxes", "sandbox", "sb", "s"],
    usage: "manage sandboxes",
    load: async () => (await import("./sandboxes/group.ts")).command,
  },
  { names: ["info"], usage: "print the server info", load: async () => (await import("./info.ts")).command },
  {
    names: ["shim"],
    usage: "interact with a shim directly",
    load: async () => (await import("./shim/group.ts")).command,
  },
];

/** `ctr` as data. */
export const CTR: Program<typeof FLAGS, CtrGlobals> = {
  name: "ctr",
  usage: BANNER,
  version: VERSION.version,
  versionLine: `ctr ${VERSION.package} ${VERSION.version}`,
  description: DESCRIPTION,
  flags: FLAGS,
  commands: COMMANDS,
  globals: (flags, io) => ({
    address: flags.address,
    namespace: flags.namespace,
    debug: flags.debug,
    connectTimeoutMs: flags.connectTimeout,
    connect: async () =>
      connect({
        address: flags.address,
        namespace: flags.namespace,
        connectTimeoutMs: flags.connectTimeout,
        signal: flags.timeout > 0 ? AbortSignal.any([io.signal, AbortSignal.timeout(flags.timeout)]) : io.signal,
      }),
  }),
};

interface ConnectOptions {
  readonly address: string;
  readonly namespace: string;
  readonly connectTimeoutMs: number;
  readonly signal: AbortSignal;
}

async function connect(options: ConnectOptions): Promise<Session> {
  const { connectClient } = await import("@stevedore/sdk/connect");
  const client = connectClient({
    address: options.address,
    ...(options.connectTimeoutMs > 0 ? { connectTimeoutMs: options.connectTimeoutMs } : {}),
  });
  return {
    client,
    context: backgroundContext({ namespace: options.namespace, signal: options.signal }),
    [Symbol.asyncDispose]: async () => client[Symbol.asyncDispose](),
  };
}

/** Runs `ctr` with these arguments (program name left out) and returns the exit code. */
export async function runCtr(argv: readonly string[], io: CommandIO): Promise<number> {
  return runProgram(CTR, argv, io);
}
