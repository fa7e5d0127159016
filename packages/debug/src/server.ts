/** The debug socket: profiles and figures of the running daemon over HTTP, for `ctr pprof` and curl. */
import { chmod, chown, mkdir, mkdtemp, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { classified, isErrorClass, type Logger, messageOf } from "@stevedore/base";
import { isListening, removeStaleSocket } from "@stevedore/os/socket";

export interface DebugServerOptions {
  /** Path of the socket. */
  readonly address: string;
  readonly uid: number;
  readonly gid: number;
  /** Of the socket; containerd's 0660 when absent. */
  readonly mode?: number;
  /** Serve `/debug/pprof/`. */
  readonly profiles: boolean;
  readonly log: Logger;
}

/** containerd's modes of a socket and of the folder it makes for it. */
const SOCKET_MODE = 0o660;
const FOLDER_MODE = 0o770;

const PREFIX = "/debug/pprof/";
const DEFAULT_PROFILE_SECONDS = 30;
const MAX_PROFILE_SECONDS = 3600;

/** Kinds of profiles that a Go daemon has, and why this one has not. */
const MISSING: Readonly<Record<string, string>> = {
  goroutine: "a JavaScript engine has no goroutines",
  threadcreate: "the engine does not record where threads are made",
  block: "one loop, on which nothing blocks",
  mutex: "one loop, without mutexes",
  allocs: "the engine does not record past allocations; see heap",
  trace: "the engine has no execution tracer; see profile",
  symbol: "profiles carry their names",
};

/**
 * Serves until disposed.
 * @throws failed-precondition when another process answers on the socket; already-exists for a file that is no socket
 */
export async function serveDebug(options: DebugServerOptions): Promise<AsyncDisposable> {
  const { address, uid, gid, log, mode = SOCKET_MODE } = options;
  if (isListening(address)) {
    throw classified("failed-precondition", `listen on ${address}: another process answers there: failed precondition`);
  }
  removeStaleSocket(address);
  const folder = dirname(address);
  await mkdir(folder, { recursive: true, mode: FOLDER_MODE });
  // Bound where nobody else can reach, and moved when its mode and owner are right.
  const hidden = await mkdtemp(join(folder, ".debug-"));
  try {
    const server = Bun.serve({
      unix: join(hidden, "s"),
      fetch: async (request, running) => {
        // A CPU profile is silent for as long as it takes.
        running.timeout(request, 0);
        return answer(request, options.profiles);
      },
    });
    await chmod(join(hidden, "s"), mode);
    await chown(join(hidden, "s"), uid, gid);
    await rename(join(hidden, "s"), address);
    log.info("serving...", { address });
    return {
      [Symbol.asyncDispose]: async () => {
        await server.stop(true);
        await rm(address, { force: true });
      },
    };
  } finally {
    await rm(hidden, { recursive: true, force: true });
  }
}

async function answer(request: Request, profiles: boolean): Promise<Response> {
  const { pathname, searchParams } = new URL(request.url);
  if (request.method !== "GET" && request.method !== "HEAD") return text("method not allowed\n", 405);
  try {
    if (pathname === "/debug/vars") {
      if (searchParams.get("gc") === "1") Bun.gc(true);
      return Response.json(await variables());
    }
    if (!profiles) return text("404 page not found\n", 404);
    if (pathname === "/debug/pprof" || pathname === PREFIX) return text(index());
    if (pathname.startsWith(PREFIX)) return await profile(pathname.slice(PREFIX.length), searchParams, request.signal);
    return text("404 page not found\n", 404);
  } catch (error) {
    return text(`${messageOf(error)}\n`, isErrorClass(error, "invalid-argument") ? 400 : 500);
  }
}

async function profile(kind: string, query: URLSearchParams, signal: AbortSignal): Promise<Response> {
  switch (kind) {
    case "cmdline":
      return text(process.argv.join("\0"));
    case "profile": {
      const { takeCpuProfile } = await import("./cpu-profile.ts");
      return binary(kind, await takeCpuProfile(secondsOf(query), signal));
    }
    case "heap": {
      const { heapText, takeHeapProfile } = await import("./heap-profile.ts");
      if (query.get("gc") === "1") Bun.gc(true);
      return Number(query.get("debug") ?? 0) > 0 ? text(heapText()) : binary(kind, await takeHeapProfile());
    }
    default: {
      const why = Object.hasOwn(MISSING, kind) ? MISSING[kind] : undefined;
      return why === undefined
        ? text(`Unknown profile\n`, 404)
        : text(`profile ${kind} is not implemented: ${why}\n`, 501);
    }
  }
}

/** @throws invalid-argument */
function secondsOf(query: URLSearchParams): number {
  const given = query.get("seconds");
  if (given === null || given === "") return DEFAULT_PROFILE_SECONDS;
  const seconds = Number(given);
  if (!Number.isFinite(seconds) || seconds < 0 || seconds > MAX_PROFILE_SECONDS) {
    throw classified("invalid-argument", `seconds "${given}": want a number up to ${MAX_PROFILE_SECONDS}`);
  }
  return seconds === 0 ? DEFAULT_PROFILE_SECONDS : seconds;
}

async function variables(): Promise<unknown> {
  const { heapStats } = await import("bun:jsc");
  const { heapSize, heapCapacity, extraMemorySize, objectCount } = heapStats();
  return {
    cmdline: process.argv,
    uptime_s: process.uptime(),
    memory: process.memoryUsage(),
    resources: process.resourceUsage(),
    heap: { heapSize, heapCapacity, extraMemorySize, objectCount },
  };
}

function index(): string {
  const missing = Object.entries(MISSING).map(([kind, why]) => `${kind}\tnot implemented: ${why}\n`);
  return `/debug/pprof/\n\ncmdline\theap\tprofile\n\n${missing.join("")}`;
}

function text(body: string, status = 200): Response {
  return new Response(body, {
    status,
    headers: { "content-type": "text/plain; charset=utf-8", "x-content-type-options": "nosniff" },
  });
}

function binary(name: string, bytes: Uint8Array): Response {
  return new Response(new Uint8Array(bytes), {
    headers: {
      "content-type": "application/octet-stream",
      "content-disposition": `attachment; filename="${name}"`,
      "x-content-type-options": "nosniff",
    },
  });
}
