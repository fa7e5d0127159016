// End-to-end cases: one function, run for each way of putting clients, daemons and shims together.
//
//   row("F25", "run --rm gives the container's exit status", { covers: ["flag:ctr run --rm"] }, async (t) => {
//     const ran = await t.ctr("run", "--rm", await t.image(), t.id("a"), "sh", "-c", "exit 7");
//     expect(ran.code).toBe(7);
//   });
//
// The first word is the row of the feature list; it is in the test's name, and docs/conformance.md is made from it.
import { afterAll, test } from "bun:test";
import { appendFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Daemon, type Maker } from "./daemon.ts";
import { IMAGE, type ImageOptions, ociArchive } from "./images.ts";
import { type ExecOptions, patience, type Result, type Running } from "./process.ts";

/** Who plays which part in one run of a case. */
export type Cast = { readonly client: Maker; readonly daemon: Maker; readonly shim: Maker };

/** Every combination that says something new. "peer" is the calibration: nothing of ours takes part. */
export const CASTS = {
  peer: { client: "debian", daemon: "debian", shim: "debian" },
  ours: { client: "ours", daemon: "ours", shim: "ours" },
  "our-daemon": { client: "debian", daemon: "ours", shim: "ours" },
  "our-ctr": { client: "ours", daemon: "debian", shim: "debian" },
  "our-shim": { client: "debian", daemon: "debian", shim: "ours" },
  "their-shim": { client: "debian", daemon: "ours", shim: "debian" },
} as const satisfies Readonly<Record<string, Cast>>;

export type CastName = keyof typeof CASTS;

export type RowOptions = {
  /** The casts to run; by default the peer, ours, and the two mixed pairs of client and daemon. */
  readonly casts?: readonly CastName[];
  /** What of the surface this shows, for the coverage gate: "flag:ctr run --rm", "rpc:pkg.Service/Method", "config:key". Read statically: literals only. */
  readonly covers?: readonly string[];
  /** Set where no live peer can show it: the recording or source file that decides. The peer's casts are left out then. */
  readonly source?: string;
  /** A daemon with this at the end of its configuration, not shared with other cases. */
  readonly config?: Partial<Record<Maker, string>>;
  /** The same, with this as the whole configuration and `@dir@` for the daemon's folder. */
  readonly wholeConfig?: Partial<Record<Maker, string>>;
  /** A daemon of its own though the configuration is the usual one: the case stops it, or fills it. */
  readonly ownDaemon?: boolean;
  /** Default 60 s. */
  readonly timeoutMs?: number;
};

/** What a case works with. */
export type Stage = {
  readonly cast: Cast;
  readonly castName: CastName;
  readonly daemon: Daemon;
  /** A namespace of this case alone; removed after it. */
  readonly namespace: string;
  /** Runs the cast's ctr in the case's namespace. */
  ctr(...args: string[]): Promise<Result>;
  /** The same, with stdin, a terminal or a time limit. */
  ctrWith(options: ExecOptions, ...args: string[]): Promise<Result>;
  /** Starts the cast's ctr and goes on; it is ended after the case. */
  start(...args: string[]): Running;
  /** Like {@link ctr}, but throws when it fails: for steps that only lead to what is tested. */
  must(...args: string[]): Promise<string>;
  /** Imports the busybox test image (once per case and name) and gives its name. */
  image(options?: ImageOptions): Promise<string>;
  /** An id nobody else uses. */
  id(name: string): string;
  /** A path in the daemon's folder, removed with it. */
  path(name: string): string;
};

const DEFAULT_CASTS: readonly CastName[] = ["peer", "ours", "our-daemon", "our-ctr"];

const shared = new Map<string, Promise<Daemon>>();
let counter = 0;

async function daemonFor(cast: Cast, options: RowOptions): Promise<{ daemon: Daemon; own: boolean }> {
  const config = options.config?.[cast.daemon];
  const wholeConfig = options.wholeConfig?.[cast.daemon];
  const make = {
    maker: cast.daemon,
    shim: cast.shim,
    ...(config === undefined ? {} : { config }),
    ...(wholeConfig === undefined ? {} : { wholeConfig }),
  };
  if (config !== undefined || wholeConfig !== undefined || options.ownDaemon === true)
    return { daemon: await Daemon.start(make), own: true };
  const key = `${cast.daemon}/${cast.shim}`;
  const known = await shared.get(key)?.catch(() => undefined);
  if (known?.running === true) return { daemon: known, own: false };
  // None yet, or the one there was has died under an earlier case.
  await known?.close();
  const fresh = Daemon.start(make);
  shared.set(key, fresh);
  return { daemon: await fresh, own: false };
}

function stageOf(cast: Cast, castName: CastName, daemon: Daemon, started: Running[]): Stage {
  counter += 1;
  const namespace = `stv${process.pid}-${counter}`;
  const imported = new Set<string>();
  const ctrWith = async (options: ExecOptions, ...args: string[]): Promise<Result> =>
    daemon.ctr(cast.client, namespace, args, options);
  const must = async (...args: string[]): Promise<string> => {
    const ran = await ctrWith({}, ...args);
    if (ran.code !== 0) throw new Error(`ctr ${args.join(" ")}: status ${ran.code}\n${ran.stdout}${ran.stderr}`);
    return ran.stdout;
  };
  return {
    cast,
    castName,
    daemon,
    namespace,
    ctr: async (...args) => ctrWith({}, ...args),
    ctrWith,
    start: (...args) => {
      const running = daemon.startCtr(cast.client, namespace, args);
      started.push(running);
      return running;
    },
    must,
    image: async (options = {}) => {
      const name = options.name ?? IMAGE;
      if (imported.has(name)) return name;
      const archive = join(daemon.dir, `${namespace}-${imported.size}.tar`);
      await writeFile(archive, await ociArchive(options));
      await must("images", "import", archive);
      imported.add(name);
      return name;
    },
    id: (name) => `${namespace}-${name}`,
    path: (name) => join(daemon.dir, name),
  };
}

/** What the lanes set: "peer" runs the calibration alone, "product" everything else; absent runs all. */
function wanted(name: CastName, options: RowOptions): boolean {
  const side = process.env["STEVEDORE_SIDE"];
  if (options.source !== undefined && CASTS[name].daemon === "debian") return false;
  if (side === "peer") return name === "peer";
  return side !== "product" || name !== "peer";
}

/**
 * How often a case may be tried where nothing of ours takes part. Debian's client ends now and then before it has copied the
 * last output; the question to the peer is whether the case is right, and one good answer is the answer.
 */
const PEER_ATTEMPTS = 3;

interface Play {
  readonly name: CastName;
  readonly title: string;
  readonly options: RowOptions;
  readonly body: (stage: Stage) => Promise<void>;
}

async function play({ name, title, options, body }: Play): Promise<void> {
  const cast: Cast = CASTS[name];
  const { daemon, own } = await daemonFor(cast, options);
  const started: Running[] = [];
  const stage = stageOf(cast, name, daemon, started);
  try {
    await body(stage);
  } catch (error) {
    const log = (await daemon.log).split("\n").slice(-15).join("\n");
    throw new Error(
      `${error instanceof Error ? error.message : String(error)}\n--- the daemon's last words ---\n${log}`,
      { cause: error },
    );
  } finally {
    for (const running of started) await running.stop("SIGKILL");
    if (own) await daemon.close();
    else await reportLeaks(await daemon.clear(stage.namespace), title);
  }
}

/** Registers a case for each of its casts. Its title is `<row>: <title> [<cast>]`. */
export function row(id: string, title: string, options: RowOptions, body: (stage: Stage) => Promise<void>): void {
  for (const name of options.casts ?? DEFAULT_CASTS) {
    if (!wanted(name, options)) continue;
    test(
      `${id}: ${title} [${name}]`,
      async () => {
        for (let left = name === "peer" ? PEER_ATTEMPTS : 1; ; left -= 1) {
          try {
            await play({ name, title: `${id}: ${title} [${name}]`, options, body });
            return;
          } catch (error) {
            if (left === 1) throw error;
          }
        }
      },
      patience(options.timeoutMs ?? 60_000),
    );
  }
}

async function reportLeaks(leaks: readonly string[], who: string): Promise<void> {
  const report = process.env["STEVEDORE_LEAKS"];
  if (report !== undefined && leaks.length > 0)
    await appendFile(report, leaks.map((leak) => `${who}: ${leak}\n`).join(""));
}

afterAll(async () => {
  for (const daemon of shared.values()) await (await daemon.catch(() => undefined))?.close();
  shared.clear();
});
