// Cases that run in a virtual machine: the test and its expectations are here, the commands in the guest.
//
//   const world = guestWorld({ kind: "small" });
//   world.row("S11", "--memory-limit reaches memory.max", { covers: [] }, async (t) => {
//     await t.must(`ctr run -d --memory-limit 64000000 "$image" "$id" sleep 1000`);
//     …
//   });
//   world.leavesNothing();
//
// As in ../row.ts a case runs with Debian's containerd first ("peer"), then with everything ours.
import { afterAll, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { appendFile, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type Maker, repository } from "../daemon.ts";
import { IMAGE, ociArchive } from "../images.ts";
import type { Result } from "../process.ts";
import { Guest, type GuestOptions, quoted, SLOWEST } from "./guest.ts";

/** Who plays all parts. */
const MAKERS = { peer: "debian", ours: "ours" } as const;
export type GuestCast = keyof typeof MAKERS;

export type GuestRowOptions = {
  /** Default: both. */
  readonly casts?: readonly GuestCast[];
  /** As in ../row.ts: literals only. */
  readonly covers?: readonly string[];
  /** Set where Debian's containerd cannot show it: what decides instead. The peer is left out then. */
  readonly source?: string;
  /** Lines for the daemon's configuration, which is then of this case alone. `@dir@` is its folder. */
  readonly config?: Readonly<Partial<Record<Maker, string>>>;
  /** Why it is not run yet: it is counted as skipped, unless STEVEDORE_WAITING=1 asks for it. */
  readonly waits?: string;
  /** What one cast takes on a machine that does nothing else; cases that do not fit into MINUTES are skipped. Default 8. */
  readonly seconds?: number;
};

/** What a case works with. */
export type GuestStage = {
  readonly cast: GuestCast;
  readonly maker: Maker;
  readonly guest: Guest;
  /** The container's id that `$id` stands for. */
  readonly id: string;
  readonly namespace: string;
  /** In the guest: the folder of the daemon. */
  readonly dir: string;
  /**
   * Runs a bash script in the guest. It has: the function `ctr` (the cast's own, on its daemon and namespace), `debian_ctr` (Debian's, on the same), `$image`, `$id`,
   * `$dir` (the daemon's folder), `$daemon` (its process), `pid ID` (a container's first process) and `until_true COMMAND` (waits up to five minutes).
   */
  sh(script: string, options?: { readonly timeoutMs?: number }): Promise<Result>;
  /** The same, but throws when it fails. Without the last line end. */
  must(script: string, options?: { readonly timeoutMs?: number }): Promise<string>;
  /** Starts the case's daemon again on its folder, after the case has ended it. */
  restart(): Promise<void>;
  /** A unary gRPC call to the case's daemon, by the C core's client: the same bytes to the peer and to us. */
  call(
    method: string,
    request: Uint8Array,
  ): Promise<{ readonly code: string; readonly message: string; readonly response: Uint8Array }>;
};

/** What a boot takes, of a file's minutes, and with it the first start of the daemons. */
const BOOT_SECONDS = 25;
/** What {@link GuestWorld.leavesNothing} takes, of a file's minutes. */
const LAST_SECONDS = 5;

/** In the guest as on the machine: the test image, to be imported. */
export const ARCHIVE = join(repository, "build/vm/busybox.tar");
const CALL = join(import.meta.dirname, "guest/call.py");
const NAMESPACE = "vm";

function programs(maker: Maker): string {
  return join(repository, maker === "ours" ? "build/bin" : "build/peer/usr/bin");
}

/** What every script begins with. `folder` is the daemon's. */
function prelude({ maker, folder, id }: { maker: Maker; folder: string; id: string }): string {
  const ctr = (whose: Maker): string =>
    `${programs(whose)}/ctr --address ${folder}/c.sock --namespace ${NAMESPACE} "$@"; `;
  return [
    `export PATH=${folder}/bin:$PATH`,
    `dir=${folder} id=${id} image=${IMAGE} namespace=${NAMESPACE}`,
    `daemon=$(cat ${folder}/pid 2>/dev/null)`,
    `ctr() { ${ctr(maker)}}`,
    `debian_ctr() { ${ctr("debian")}}`,
    `pid() { debian_ctr tasks ls | awk -v id="$1" '$1 == id { print $2 }'; }`,
    'until_true() { local n=0; until "$@"; do n=$((n + 1)); if [ $n -gt 3000 ]; then echo "waited five minutes for: $*" >&2; return 1; fi; sleep 0.1; done; }',
    "",
  ].join("\n");
}

/** The usual two to five seconds are what a busy machine does not give an emulated one. At the end, since `more` may begin with keys of no table. */
const TIMEOUTS = ["metrics.shimstats", "task.state", "shim.load", "shim.cleanup", "shim.shutdown", "bolt.open"];
const PATIENCE = `\n[timeouts]\n${TIMEOUTS.map((name) => `  "io.containerd.timeout.${name}" = "60s"\n`).join("")}`;

/** Without the plug-ins that need what the guest has not. */
function configuration(maker: Maker, more: string): string {
  if (maker === "ours") return `version = 3\n${more}${PATIENCE}`;
  const off = [
    "grpc.v1.cri",
    "snapshotter.v1.aufs",
    "snapshotter.v1.btrfs",
    "snapshotter.v1.zfs",
    "snapshotter.v1.devmapper",
  ];
  return `version = 2\ndisabled_plugins = [${off.map((name) => `"io.containerd.${name}"`).join(", ")}]\n${more}${PATIENCE}`;
}

/** One guest, with at most one daemon of each maker (and configuration) in it, for the cases of a file. */
export class GuestWorld {
  readonly #options: GuestOptions;
  readonly #daemons = new Map<string, Promise<string>>();
  #guest: Promise<Guest> | undefined;
  readonly #begun = performance.now();
  /** Seconds that what has run was estimated at. */
  #estimated = 0;
  #cases = 0;

  constructor(options: GuestOptions) {
    this.#options = options;
  }

  /** How many times slower this machine is than one that does nothing else: by what has run here, or before that in the file before. */
  #slowness(elapsed: number): number {
    if (this.#estimated > 0) return Math.max(1, elapsed / this.#estimated);
    const told = process.env["STEVEDORE_SLOWNESS"];
    if (told === undefined || !existsSync(told)) return 1;
    return Math.max(1, Number(readFileSync(told, "utf8")) || 1);
  }

  /** Boots it when first asked for. */
  async guest(): Promise<Guest> {
    this.#guest ??= (async () => {
      await mkdir(join(ARCHIVE, ".."), { recursive: true });
      await writeFile(ARCHIVE, await ociArchive({}));
      return Guest.boot(this.#options);
    })();
    return this.#guest;
  }

  async close(): Promise<void> {
    await (await this.#guest?.catch(() => undefined))?.close();
    const told = process.env["STEVEDORE_SLOWNESS"];
    if (told !== undefined && this.#estimated > 0)
      await writeFile(told, String(this.#slowness((performance.now() - this.#begun) / 1000)));
  }

  /** Registers a case for each of its casts. */
  row(id: string, title: string, options: GuestRowOptions, body: (stage: GuestStage) => Promise<void>): void {
    for (const cast of options.casts ?? (["peer", "ours"] as const)) {
      if (options.source !== undefined && cast === "peer") continue;
      this.#test(`${id}: ${title} [${cast}]`, options, async () => this.#play(cast, options, body));
    }
  }

  /** A case without a daemon of ours being started for it. */
  plain(
    id: string,
    title: string,
    options: Pick<GuestRowOptions, "covers" | "seconds" | "waits">,
    body: (guest: Guest) => Promise<void>,
  ): void {
    this.#test(`${id}: ${title}`, options, async () => body(await this.guest()));
  }

  /** The last case of a file: ends the daemons; nothing of theirs may be there afterwards. */
  leavesNothing(): void {
    test(
      "the guest's daemons leave nothing behind",
      async () => {
        if (this.#guest === undefined) return;
        const guest = await this.guest();
        for (const [key, folder] of this.#daemons)
          expect({ key, left: await leftBy(guest, await folder) }).toEqual({ key, left: "" });
      },
      SLOWEST * 10_000,
    );
  }

  #test(
    title: string,
    { seconds = 8, waits }: Pick<GuestRowOptions, "seconds" | "waits">,
    body: () => Promise<void>,
  ): void {
    test.skipIf(waits !== undefined && process.env["STEVEDORE_WAITING"] !== "1")(
      title,
      async () => {
        const estimate = seconds + (this.#estimated === 0 ? BOOT_SECONDS : 0);
        if (!this.#fits(estimate)) {
          await skipped(title);
          return;
        }
        this.#estimated += estimate;
        await body();
      },
      (BOOT_SECONDS + seconds) * SLOWEST * 1000,
    );
  }

  /** Whether there is time for it in the file's MINUTES, if the machine stays as slow as it was for what has run. */
  #fits(estimate: number): boolean {
    const limit = Number(process.env["MINUTES"] || "10") * 60;
    const elapsed = (performance.now() - this.#begun) / 1000;
    const slowness = this.#slowness(elapsed);
    return elapsed + (estimate + LAST_SECONDS) * slowness <= limit;
  }

  async #play(cast: GuestCast, options: GuestRowOptions, body: (stage: GuestStage) => Promise<void>): Promise<void> {
    const guest = await this.guest();
    const maker = MAKERS[cast];
    this.#cases += 1;
    const id = `c${this.#cases}`;
    const config = options.config?.[maker] ?? "";
    const folder = await this.#daemon(maker, config);
    const sh: GuestStage["sh"] = async (script, more = {}) =>
      guest.run(`${prelude({ maker, folder, id })}${script}`, more);
    const must: GuestStage["must"] = async (script, more) => {
      const ran = await sh(script, more);
      if (ran.code !== 0) throw new Error(`in the guest: ${script}: status ${ran.code}\n${ran.stdout}${ran.stderr}`);
      return ran.stdout.replace(/\n$/, "");
    };
    const call: GuestStage["call"] = async (method, request) => {
      const script = `/usr/bin/python3 ${CALL} "$dir/c.sock" "$namespace" ${method} '${Buffer.from(request).toString("base64")}'`;
      const [, code = "", rest = ""] = /^(\S+) (.*)$/s.exec(await must(script)) ?? [];
      return { code, message: code === "ok" ? "" : rest, response: Buffer.from(code === "ok" ? rest : "", "base64") };
    };
    const restart = async (): Promise<void> => void (await must(launch(maker, folder)));
    try {
      await body({ cast, maker, guest, id, namespace: NAMESPACE, dir: folder, sh, must, call, restart });
    } catch (error) {
      const log = await sh('tail -n 15 "$dir/log"').then(
        (ran) => ran.stdout,
        () => "",
      );
      throw new Error(
        `${error instanceof Error ? error.message : String(error)}\n--- the daemon's last words ---\n${log}`,
        { cause: error },
      );
    } finally {
      await sh(CLEAR).catch(() => undefined);
      if (config !== "") {
        this.#daemons.delete(`${maker} ${config}`);
        await leftBy(guest, folder).catch(() => undefined);
      }
    }
  }

  async #daemon(maker: Maker, config: string): Promise<string> {
    const key = `${maker} ${config}`;
    const known = this.#daemons.get(key);
    if (known !== undefined) return known;
    const folder = `/var/tmp/stv-${maker}-${this.#daemons.size}-${this.#cases}`;
    const started = startDaemon(await this.guest(), { maker, folder, config });
    this.#daemons.set(key, started);
    return started;
  }
}

/** The runner knows of skipping only before the first case has run: tools/test.ts counts those that are told here. */
async function skipped(title: string): Promise<void> {
  process.stdout.write(`skipped, since it does not fit into MINUTES: ${title}\n`);
  const report = process.env["STEVEDORE_SKIPPED"];
  if (report !== undefined) await appendFile(report, `${title}\n`);
}

/** A world whose guest is closed when the file's tests are over. */
export function guestWorld(options: GuestOptions): GuestWorld {
  const world = new GuestWorld(options);
  afterAll(async () => world.close());
  return world;
}

const CLEAR = `
for task in $(debian_ctr tasks ls -q); do debian_ctr tasks rm --force "$task"; done
for container in $(debian_ctr containers ls -q); do debian_ctr containers rm "$container"; done
`;

/** Starts one, with the test image in it. @returns its folder. */
async function startDaemon(
  guest: Guest,
  { maker, folder, config }: { maker: Maker; folder: string; config: string },
): Promise<string> {
  const text = configuration(maker, config.replaceAll("@dir@", folder));
  await guest.must(
    `mkdir -p ${folder}/bin
ln -s ${programs(maker)}/containerd-shim-runc-v2 ${folder}/bin/
printf %s ${quoted(text)} >${folder}/config.toml
${prelude({ maker, folder, id: "none" })}
${launch(maker, folder)}
debian_ctr images import ${ARCHIVE}`,
  );
  return folder;
}

/** The lines that start a daemon on a folder (again), and wait for it. */
export function launch(maker: Maker, folder: string): string {
  const arguments_ = ["--config", "config.toml", "--root", "root", "--state", "state", "--address", "c.sock"]
    .map((word) => (word.startsWith("--") ? word : `${folder}/${word}`))
    .join(" ");
  return `rm -f ${folder}/c.sock
setsid ${programs(maker)}/containerd ${arguments_} >>${folder}/log 2>&1 </dev/null &
daemon=$!
echo $daemon >${folder}/pid
n=0
until [ -S ${folder}/c.sock ] && debian_ctr version >/dev/null 2>&1; do
  if ! kill -0 $daemon || [ $n -gt 1200 ]; then tail -n 30 ${folder}/log >&2; exit 1; fi
  n=$((n + 1))
  sleep 0.1
done`;
}

/** Ends a daemon. @returns processes, mounts and groups that are still there. */
async function leftBy(guest: Guest, folder: string): Promise<string> {
  return guest.must(
    `daemon=$(cat ${folder}/pid)
kill "$daemon" 2>/dev/null
n=0
while kill -0 "$daemon" 2>/dev/null || pgrep -f '${folder}/' >/dev/null; do
  n=$((n + 1))
  if [ $n -gt 600 ]; then break; fi
  sleep 0.1
done
for left in $(pgrep -f '${folder}/'); do tr '\\0' ' ' <"/proc/$left/cmdline"; echo; done
awk '$2 ~ "^${folder}/" { print $1, $2 }' /proc/mounts
find /sys/fs/cgroup -mindepth 2 -type d -path '*/${NAMESPACE}/*'
true`,
  );
}
