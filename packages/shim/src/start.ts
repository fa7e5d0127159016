import { randomUUID } from "node:crypto";
import { basename } from "node:path";
import { concatBytes, decodeText } from "@stevedore/base/bytes";
import { classified, messageOf, withContext } from "@stevedore/base/errors";
import type { OwnedFd } from "@stevedore/os/fd";
import { linkSocketDir, readSpecFacts, type SpecFacts, writeAddress } from "./bundle.ts";
import { SHARED_VARIABLE } from "./environment.ts";
import type { ShimFlags } from "./flags.ts";
import { type AnyBytes, decodeOptions, OPTIONS_TYPE, typeName } from "./options.ts";
import { DEFAULT_SOCKET_DIR, socketAddress, socketPath } from "./socket-address.ts";

/** Descriptor on which the serving process tells that it listens. */
export const READY_FD = 3;

/** Annotations that make containers share a shim, in the peer's order. */
const GROUP_ANNOTATIONS = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/** What a shim is told on stdin at most; the peer's figure. */
const MAX_STDIN_BYTES = 10 << 20;

/** What the serving process tells when it listens; anything else is why it does not. */
export const READY = "ok";

/** The version of the shim protocol that a JSON answer and the 2.3 form promise: Task v3. */
const PROTOCOL_VERSION = 3;

/** From here on (containerd 2.3's numbers) a log level means debug. */
const DEBUG_LEVEL = -4;

/** What the daemon told on stdin. */
export type Bootstrap =
  /** containerd 2.3: BootstrapParams. */
  | {
      readonly kind: "params";
      readonly debug: boolean;
      readonly ttrpcAddress: string;
      readonly grpcAddress: string;
      readonly publishBinary: string;
      readonly socketDir: string;
      readonly options: AnyBytes | undefined;
    }
  /** Earlier ones: an Any with runtime options, or nothing. */
  | { readonly kind: "older"; readonly options: AnyBytes | undefined };

/**
 * Reads what came on stdin. The two forms cannot be told apart by their bytes, so BootstrapParams counts only when it
 * names our own id.
 */
export async function readBootstrap(input: Uint8Array, id: string): Promise<Bootstrap> {
  if (input.byteLength === 0) return { kind: "older", options: undefined };
  const { decodeMessage } = await import("@stevedore/wire/codec");
  const { BootstrapParamsSchema } = await import(
    "@stevedore/wire/gen/light/containerd/runtime/bootstrap/v1/bootstrap_pb"
  );
  try {
    const params = decodeMessage(BootstrapParamsSchema, input);
    if (params.instanceId === id) {
      const values = params.extensions.flatMap(({ value }) => (value === undefined ? [] : [value]));
      return {
        kind: "params",
        debug: params.logLevel <= DEBUG_LEVEL,
        ttrpcAddress: params.containerdTtrpcAddress,
        grpcAddress: params.containerdGrpcAddress,
        publishBinary: params.containerdBinary,
        socketDir: params.socketDir ?? "",
        options: values.find(({ typeUrl }) => typeName(typeUrl) === OPTIONS_TYPE),
      };
    }
  } catch {
    // An Any's value need not be text, as a namespace must be.
  }
  const { AnySchema } = await import("@stevedore/wire/light/wkt");
  try {
    const any = decodeMessage(AnySchema, input);
    return { kind: "older", options: any.typeUrl === "" ? undefined : any };
  } catch (cause) {
    throw classified("invalid-argument", `read runtime options from stdin: ${messageOf(cause)}`, { cause });
  }
}

export interface StartOptions {
  readonly flags: ShimFlags;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** The command that runs a shim: this program, and what makes it one. */
  readonly self: readonly string[];
  readonly stdin: Uint8Array;
  /** The bundle, which is where the daemon starts us. */
  readonly bundle: string;
}

/**
 * Starts the serving process for a container, or finds the one of its group. Returns what goes to stdout: a
 * BootstrapResult for the 2.3 form; for older daemons the plain address, or JSON when they say that they read version 3.
 */
export async function start(options: StartOptions): Promise<Uint8Array | string> {
  const { env, bundle } = options;
  const bootstrap = await readBootstrap(options.stdin, options.flags.id);
  const flags = mergeFlags(options.flags, bootstrap);
  const spare = flags.namespace === "";
  const annotations = spare ? {} : await annotationsOf(bundle);
  const group = GROUP_ANNOTATIONS.map((name) => annotations[name]).find((value) => value !== undefined) ?? flags.id;
  const named = bootstrap.kind === "params" ? bootstrap.socketDir : "";
  const dir = named === "" ? DEFAULT_SOCKET_DIR : named;
  if (named !== "" && !spare) await linkSocketDir(bundle, named);
  // The daemon says who is in a shared shim: one that is about to end, or full, must not be found by the id it began with.
  const id = (env[SHARED_VARIABLE] ?? "") !== "" ? `${group}/${randomUUID()}` : group;
  const name = { dir, daemonAddress: flags.address, namespace: flags.namespace, id };
  const address = socketAddress(name);
  const path = socketPath(address);
  const { isListening, removeStaleSocket } = await import("@stevedore/os/socket");
  if (!isListening(path)) {
    removeStaleSocket(path);
    const ttrpcAddress = bootstrap.kind === "params" ? bootstrap.ttrpcAddress : "";
    // As the peer's: a shim that is to say more has a socket for profiles as well, named like its own.
    const debugSocket = flags.debug ? socketPath(socketAddress({ ...name, debug: true })) : "";
    const served = { ...flags, socket: path, debugSocket, bundle };
    await launch({ ...options, flags: served, ttrpcAddress, runtime: bootstrap.options });
  }
  if (bootstrap.kind === "params") return encodeResult(address);
  await writeAddress(bundle, address);
  if (Number(env["MAX_SHIM_VERSION"] ?? 0) < PROTOCOL_VERSION) return address;
  return JSON.stringify({ version: PROTOCOL_VERSION, address, protocol: "ttrpc" });
}

/** Annotations of the bundle's spec; none without a spec, which a sandbox need not have. */
async function annotationsOf(bundle: string): Promise<SpecFacts["annotations"]> {
  try {
    return (await readSpecFacts(bundle)).annotations;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return {};
    throw error;
  }
}

function mergeFlags(flags: ShimFlags, bootstrap: Bootstrap): ShimFlags {
  if (bootstrap.kind === "older") return flags;
  return {
    ...flags,
    debug: flags.debug || bootstrap.debug,
    address: flags.address === "" ? bootstrap.grpcAddress : flags.address,
    publishBinary: flags.publishBinary === "" ? bootstrap.publishBinary : flags.publishBinary,
  };
}

async function encodeResult(address: string): Promise<Uint8Array> {
  const { makeMessage, encodeMessage } = await import("@stevedore/wire/codec");
  const { BootstrapResultSchema } = await import(
    "@stevedore/wire/gen/light/containerd/runtime/bootstrap/v1/bootstrap_pb"
  );
  const result = makeMessage(BootstrapResultSchema, { version: PROTOCOL_VERSION, address, protocol: "ttrpc" });
  return encodeMessage(BootstrapResultSchema, result);
}

interface Launch {
  readonly flags: ShimFlags;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly self: readonly string[];
  readonly ttrpcAddress: string;
  readonly runtime: AnyBytes | undefined;
}

/** Variables that mean this process only, not the one that serves. */
const NOT_INHERITED = /^(NOTIFY_SOCKET|WATCHDOG_|LISTEN_|BUN_)/;

/** Starts the serving process in a session of its own and waits until it listens. It is killed if it does not. */
async function launch(options: Launch): Promise<void> {
  const { flags, env, self } = options;
  const [{ spawnChild }, { pipe, OwnedFd: Owned }, { inheritedNofile, NOFILE_VARIABLE }, { createSchedCoreCookie }] =
    await Promise.all([
      import("@stevedore/os/spawn"),
      import("@stevedore/os/fd"),
      import("@stevedore/os/rlimit"),
      import("@stevedore/os/process"),
    ]);
  const environment: Record<string, string> = {};
  for (const [name, value] of Object.entries(env)) {
    if (value !== undefined && !NOT_INHERITED.test(name)) environment[name] = value;
  }
  if (options.ttrpcAddress !== "") environment["TTRPC_ADDRESS"] = options.ttrpcAddress;
  const { soft, hard } = inheritedNofile();
  environment[NOFILE_VARIABLE] = `${soft}:${hard}`;
  if ((env["SCHED_CORE"] ?? "") !== "") {
    try {
      createSchedCoreCookie();
    } catch (error) {
      throw withContext("enable sched core support", error);
    }
  }
  const ready = pipe();
  using readEnd = new Owned(ready.read);
  using writeEnd = new Owned(ready.write);
  const child = spawnChild([...self, ...serveArguments(flags)], {
    argv0: basename(self[0] ?? ""),
    env: environment,
    extraFds: [writeEnd.fd],
    newSession: true,
  });
  try {
    writeEnd.close();
    await prepareProcess(child.pid, options.runtime);
    await untilReady(readEnd);
    child.dispose();
  } catch (error) {
    await child[Symbol.asyncDispose]();
    throw error;
  }
}

function serveArguments(flags: ShimFlags): string[] {
  return [
    "-namespace",
    flags.namespace,
    "-id",
    flags.id,
    "-address",
    flags.address,
    ...(flags.publishBinary === "" ? [] : ["-publish-binary", flags.publishBinary]),
    ...(flags.debug ? ["-debug"] : []),
    "-socket",
    flags.socket,
    ...(flags.debugSocket === "" ? [] : ["-debug-socket", flags.debugSocket]),
    "-bundle",
    flags.bundle,
  ];
}

/** Puts the serving process into its cgroup and makes it a likelier victim than the daemon. */
async function prepareProcess(pid: number, runtime: AnyBytes | undefined): Promise<void> {
  const { getOomScoreAdj, setOomScoreAdj } = await import("@stevedore/os/process");
  const isRuncs = runtime !== undefined && typeName(runtime.typeUrl) === OPTIONS_TYPE;
  const { shimCgroup } = await decodeOptions(isRuncs ? runtime : undefined);
  if (shimCgroup !== "") {
    const { joinCgroup } = await import("./shim-cgroup.ts");
    await joinCgroup(shimCgroup, pid);
  }
  const LARGEST = 1000;
  setOomScoreAdj(Math.min(getOomScoreAdj(process.ppid) + 1, LARGEST), pid);
}

/** Waits on the ready pipe. Blocks: this process has nothing else to do, and the pipe ends when its writer does. */
async function untilReady(fd: OwnedFd): Promise<void> {
  const { readInto } = await import("@stevedore/os/fd");
  const buffer = new Uint8Array(1024);
  let said = "";
  for (let count = readInto(fd.fd, buffer); count > 0; count = readInto(fd.fd, buffer)) {
    said += decodeText(buffer.subarray(0, count));
    if (said === READY) return;
  }
  throw classified("unknown", said === "" ? "serving shim ended before it listened" : said);
}

/**
 * All of standard input, or nothing when that is a terminal. Blocks until its end, which is when the daemon has told
 * everything. (Bun's stdin streams would cost 8 ms here.)
 *
 * @throws out-of-range when it is too long
 */
export async function readStdin(): Promise<Uint8Array> {
  const [{ readInto }, { isTerminal }] = await Promise.all([import("@stevedore/os/fd"), import("@stevedore/os/pty")]);
  if (isTerminal(0)) return new Uint8Array();
  const parts: Uint8Array[] = [];
  let size = 0;
  const buffer = new Uint8Array(64 << 10);
  for (let count = readInto(0, buffer); count > 0; count = readInto(0, buffer)) {
    size += count;
    if (size > MAX_STDIN_BYTES) throw classified("out-of-range", "failed to read stdin: longer than 10 MiB");
    parts.push(buffer.slice(0, count));
  }
  return concatBytes(parts);
}
