import { access, chmod, mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { encodeText } from "@stevedore/base/bytes";
import { classified, messageOf } from "@stevedore/base/errors";
import type { Logger } from "@stevedore/base/log";
import { KEEPER_VARIABLE } from "@stevedore/keeper/protocol";
import { isErrno } from "@stevedore/os/errno";
import { closeQuietly, isOpen, writeFrom } from "@stevedore/os/fd";
import {
  assumeKernelKeepsExits,
  isAlive,
  processIdentity,
  setChildSubreaper,
  setProcessName,
} from "@stevedore/os/process";
import { peerCredentials } from "@stevedore/os/socket";
import { type Carrier, listenUnix, Server, sameUser } from "@stevedore/ttrpc";
import { BUNDLE, removeQuietly } from "./bundle.ts";
import { Deposits } from "./deposits.ts";
import { childEnvironment, SHARED_VARIABLE } from "./environment.ts";
import { EventPublisher } from "./events.ts";
import { ShimExits } from "./exits.ts";
import type { ShimFlags } from "./flags.ts";
import { lazyMethods } from "./lazy-service.ts";
import { shimLogger } from "./log.ts";
import { SANDBOX_METHODS, SandboxService } from "./sandbox-service.ts";
import { SocketLinks } from "./socket-links.ts";
import { READY, READY_FD } from "./start.ts";
import { TaskService } from "./task-service.ts";
import { startTracing } from "./trace.ts";

/** Methods of the task service, v2 and v3 alike. */
const TASK_METHODS = [
  "State",
  "Create",
  "Start",
  "Delete",
  "Pids",
  "Pause",
  "Resume",
  "Checkpoint",
  "Kill",
  "Exec",
  "ResizePty",
  "CloseIO",
  "Update",
  "Wait",
  "Stats",
  "Connect",
  "Shutdown",
] as const;

/** "off" makes a shim do without PIDFD_INFO_EXIT, as on kernels before 6.15. */
const PIDFD_EXITS_VARIABLE = "STEVEDORE_PIDFD_EXITS";

/** How long queued events and running calls may hold up the end; the peer's figure. */
const SHUTDOWN_TIMEOUT_MS = 5_000;

/** Serves the task API on the socket until a shutdown is asked for. Returns the exit code. */
export async function serve(flags: ShimFlags, env: Readonly<Record<string, string | undefined>>): Promise<number> {
  const { namespace, id, bundle } = flags;
  const daemonPid = Number(env[SHARED_VARIABLE] ?? "");
  const shared = daemonPid > 0;
  const daemon = shared ? processIdentity(daemonPid) : undefined;
  let work: Work | undefined;
  const log = shimLogger({
    // The bundle of the first container may go before others do; a spare has none until it is bound.
    path: () => {
      const folder = work?.tasks.bundle ?? bundle;
      return folder === "" ? "" : join(folder, BUNDLE.log);
    },
    debug: flags.debug,
    fields: { runtime: "io.containerd.runc.v2", namespace, id },
  });
  setProcessName("containerd-shim-runc-v2"); // what ps and pgrep look for
  setChildSubreaper();
  if (env[PIDFD_EXITS_VARIABLE] === "off") assumeKernelKeepsExits(false);
  const stopped = Promise.withResolvers<void>();
  const server = new Server({
    authorize: sameUser({ uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0 }),
    log,
  });
  const shutdown = (): void => stopped.resolve();
  const begin = (of: string): void => {
    work = startWork({ ...flags, namespace: of }, { env, shared, log, shutdown });
  };
  registerServices(server, () => work, shutdown);
  if (namespace === "") registerSpare(server, begin);
  else begin(namespace);
  await using _tracing = await startTracing(env, log);
  let met = false;
  const listener = await listen(flags.socket, (carrier) => {
    met = true;
    server.serve(carrier);
  });
  await using _debug = await listenForDebug(flags.debugSocket, log);
  if (!tellReady(READY)) {
    // Who started us is gone, so nobody will learn of our address.
    listener.stop();
    await removeQuietly(flags.socket);
    return 1;
  }
  // The daemon takes some milliseconds to connect: what its first calls need is loaded meanwhile.
  void warmUp();
  if (namespace === "") void meetUsualRuntime(env);
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    // A shim outlives what a service manager or a terminal tells its group: it ends when its containers have.
    process.on(signal, () => log.debug("ignoring signal", { signal }));
  }
  log.debug("serving", { socket: flags.socket, pid: process.pid });
  using _watch = endWhenAlone(server, {
    isEmpty: () => work === undefined || (work.tasks.isEmpty && work.sandbox.isEmpty),
    isHasty: async () =>
      shared
        ? met || daemon === undefined || !isAlive(daemon)
        : // A daemon may have been killed before it knew of us; the next one has removed what we were started for.
          !(await access(bundle).then(yes, no)),
    end: () => stopped.resolve(),
  });
  await stopped.promise;
  listener.stop();
  // The answer to the shutdown call itself is still to be sent.
  await server.shutdown(AbortSignal.timeout(SHUTDOWN_TIMEOUT_MS));
  await work?.close();
  await removeQuietly(flags.socket);
  return 0;
}

/** What serves the containers of a namespace. */
interface Work {
  readonly tasks: TaskService;
  readonly sandbox: SandboxService;
  readonly close: () => Promise<void>;
}

interface WorkOptions {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly shared: boolean;
  readonly log: Logger;
  readonly shutdown: () => void;
}

function startWork(flags: ShimFlags, { env, shared, log, shutdown }: WorkOptions): Work {
  const { namespace, socket, debugSocket, address: daemonAddress } = flags;
  const deposits = new Deposits(env[KEEPER_VARIABLE] ?? "", namespace);
  const exits = new ShimExits(deposits);
  const environment = childEnvironment(env);
  const events = new EventPublisher({
    namespace,
    ttrpcAddress: env["TTRPC_ADDRESS"] ?? "",
    publishBinary: flags.publishBinary,
    grpcAddress: daemonAddress,
    env: environment,
    log,
  });
  const links = shared ? new SocketLinks({ socket, debugSocket, daemonAddress, namespace }) : undefined;
  const tasks: TaskService = new TaskService({
    shim: { namespace, exits, log, deposits, env: environment },
    events,
    // The end of one container is not the end of a shared shim.
    shimId: shared ? undefined : flags.id,
    shutdown,
    assertOpen: () => sandbox?.assertOpen(),
    ...(links === undefined ? {} : { links }),
  });
  const sandbox: SandboxService | undefined = new SandboxService({ tasks, log, shutdown });
  return {
    tasks,
    sandbox,
    close: async () => {
      await events.close(SHUTDOWN_TIMEOUT_MS);
      await links?.settled();
      deposits.close();
    },
  };
}

/** All services of a shim. One that is not bound yet knows of tasks only how to end. */
function registerServices(server: Server, work: () => Work | undefined, shutdown: () => void): void {
  const unbound = {
    shutdown: async (): Promise<Record<string, never>> => {
      shutdown();
      return {};
    },
  };
  const bound = (): Work => {
    const found = work();
    if (found === undefined) throw classified("failed-precondition", "the shim is a spare that nobody has bound yet");
    return found;
  };
  server.register(
    "containerd.task.v3.Task",
    lazyMethods({
      methods: TASK_METHODS,
      load: async () => (await import("@stevedore/wire/gen/light/containerd/task/v3/shim_pb")).Task,
      get implementation() {
        return work()?.tasks ?? unbound;
      },
    }),
  );
  server.register(
    "containerd.task.v2.Task",
    lazyMethods({
      methods: TASK_METHODS,
      load: async () => (await import("@stevedore/wire/gen/light/containerd/task/v2/shim_pb")).Task,
      get implementation() {
        return work()?.tasks ?? unbound;
      },
    }),
  );
  server.register(
    "containerd.runtime.sandbox.v1.Sandbox",
    lazyMethods({
      methods: SANDBOX_METHODS,
      load: async () => (await import("@stevedore/wire/gen/light/containerd/runtime/sandbox/v1/sandbox_pb")).Sandbox,
      get implementation() {
        return bound().sandbox;
      },
    }),
  );
  server.register(
    "stevedore.shim.v1.Overview",
    lazyMethods({
      methods: ["States"],
      load: async () => (await import("@stevedore/wire/gen/light/stevedore/shim/v1/overview_pb")).Overview,
      get implementation() {
        const { tasks } = bound();
        return { states: async () => ({ states: tasks.states() }) };
      },
    }),
  );
  server.register(
    "stevedore.shim.v1.Adoption",
    lazyMethods({
      methods: ["Adopt"],
      load: async () => (await import("@stevedore/wire/gen/light/stevedore/shim/v1/adoption_pb")).Adoption,
      get implementation() {
        const { tasks } = bound();
        return { adopt: (request: { readonly id: string; readonly bundle: string }) => tasks.adopt(request) };
      },
    }),
  );
}

/** The call that tells a spare whose containers it will have, once. */
function registerSpare(server: Server, begin: (namespace: string) => void): void {
  let bound = "";
  server.register(
    "stevedore.shim.v1.Spare",
    lazyMethods({
      methods: ["Bind"],
      load: async () => (await import("@stevedore/wire/gen/light/stevedore/shim/v1/spare_pb")).Spare,
      implementation: {
        bind: async ({ namespace }: { readonly namespace: string }) => {
          if (namespace === "") throw classified("invalid-argument", "bind spare shim: namespace cannot be empty");
          if (bound !== "") throw classified("failed-precondition", `bind spare shim: it is bound to ${bound} already`);
          bound = namespace;
          begin(namespace);
          return {};
        },
      },
    }),
  );
}

/** A spare has time to find out about the runtime that most containers use. */
async function meetUsualRuntime(env: Readonly<Record<string, string | undefined>>): Promise<void> {
  const { meetRuntime } = await import("./runc/known-state.ts");
  await meetRuntime({ command: "", env: childEnvironment(env) });
}

async function listen(path: string, accept: (carrier: Carrier) => void): Promise<{ stop(): void }> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  const listener = listenUnix(path, { credentials: peerCredentials, accept });
  await chmod(path, 0o600);
  return listener;
}

/** Serves profiles where `ctr shim pprof` looks for them. A shim without that is still a shim. */
async function listenForDebug(address: string, log: Logger): Promise<AsyncDisposable | undefined> {
  if (address === "") return undefined;
  try {
    const { serveDebug } = await import("@stevedore/debug/server");
    const [uid, gid] = [process.geteuid?.() ?? 0, process.getegid?.() ?? 0];
    return await serveDebug({ address, uid, gid, mode: 0o600, profiles: true, log });
  } catch (error) {
    log.warn("failed to serve the debug socket", { address, error: messageOf(error) });
    return undefined;
  }
}

/**
 * Tells the process that started us; nobody is there when we were started by hand.
 *
 * @returns false when it has ended before we could tell.
 */
export function tellReady(message: string): boolean {
  if (!isOpen(READY_FD)) return true;
  try {
    writeFrom(READY_FD, encodeText(message));
  } catch (error) {
    if (!isErrno(error, "EPIPE")) throw error;
    return false;
  } finally {
    closeQuietly(READY_FD);
  }
  return true;
}

/** How often a shim looks whether it is alone. */
const ALONE_CHECK_MS = 1_000;

/** Looks in a row that must say so of a shared shim, which its daemon leaves without a word. */
const ALONE_CHECKS = 2;

/**
 * The same for a shim that nobody has connected to yet, and for one that a daemon ends by a call: its daemon may be slow,
 * or come back.
 */
const ALONE_CHECKS_PATIENT = 30;

const yes = (): boolean => true;
const no = (): boolean => false;

/** Ends a shim that has neither containers, nor a sandbox, nor a daemon: nobody else would. */
function endWhenAlone(
  server: Server,
  watched: { readonly isEmpty: () => boolean; readonly isHasty: () => Promise<boolean>; readonly end: () => void },
): Disposable {
  let alone = 0;
  const isAlone = (): boolean => server.connections === 0 && watched.isEmpty();
  const check = async (): Promise<void> => {
    alone = isAlone() ? alone + 1 : 0;
    if (alone < ALONE_CHECKS) return;
    // Somebody may have come meanwhile.
    if ((alone >= ALONE_CHECKS_PATIENT || (await watched.isHasty())) && isAlone()) watched.end();
  };
  const timer = setInterval(() => void check(), ALONE_CHECK_MS);
  return { [Symbol.dispose]: () => clearInterval(timer) };
}

/** Loads what every container needs and the start did not. Failures show again, and are told, at the first use. */
async function warmUp(): Promise<void> {
  await Promise.allSettled([
    import("@stevedore/wire/gen/containerd/task/v3/shim_pb"),
    import("@stevedore/wire/gen/containerd/events/task_pb"),
    import("@stevedore/wire/gen/containerd/services/events/ttrpc/v1/events_pb"),
    import("@stevedore/wire/gen/containerd/runc/v1/options_pb"),
  ]);
}
