// A virtual machine for what the test machine's kernel cannot do: cgroup v2, another init, lower OOM scores. Debian's qemu without KVM, so
// it is five to ten times slower than the machine; one boot takes about ten seconds.
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createConnection, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { repository } from "../daemon.ts";
import { eventually, type Result } from "../process.ts";
import { guestImage, type Image } from "./image.ts";

export type GuestOptions = {
  /** "small" (default): a shell script as process 1, cgroup v2. "v1": the same with cgroup v1. "systemd": Debian's systemd. */
  readonly kind?: "small" | "v1" | "systemd";
  readonly memoryMb?: number;
  readonly cpus?: number;
  /** More kernel arguments. */
  readonly kernelArguments?: readonly string[];
};

/** Machines that do other things too are slower by this than one that does nothing else: what limits in and around a guest are made of. */
export const SLOWEST = 30;

/** Until the agent answers: the slowest kind takes 26 s on a machine that does nothing else. */
const BOOT_LIMIT_MS = SLOWEST * 30_000;
/** The end of what runs, and a boot. */
const RESTART_LIMIT_MS = 2 * BOOT_LIMIT_MS;
/** A script that does not say otherwise; the slowest takes a minute on a machine that does nothing else. */
const SCRIPT_LIMIT_MS = SLOWEST * 60_000;
/** Beyond a script's own limit, for the agent to end it and to answer. */
const ANSWER_LIMIT_MS = 60_000;
/** Of the console's text, in an error. */
const CONSOLE_TAIL = 4_000;

/** In the guest: systemd's configuration, of the files there the last. */
const LAST_LIMIT = "/etc/systemd/system.conf.d/restart.conf";

/** A test run that is killed takes its guests along. */
const WITH_US = ["setpriv", "--pdeathsig", "KILL"];

const INIT = { small: "/guest/init.sh", v1: "/guest/init.sh", systemd: "/lib/systemd/systemd" } as const;

/** As one word of a shell. */
export function quoted(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}

/** The arguments of qemu: everything of it is in `dir`. */
function machine(options: GuestOptions, image: Image, dir: string): string[] {
  const kind = options.kind ?? "small";
  const kernelArguments = [
    "console=ttyS0 quiet mitigations=off random.trust_cpu=on",
    // The check counts ticks, and panics when a busy machine keeps qemu from giving them.
    "no_timer_check",
    // What it reports then is this machine's: a processor that had no time for the guest.
    "nosoftlockup rcupdate.rcu_cpu_stall_suppress=1",
    `guest.init=${INIT[kind]}`,
    `guest.repository=${repository}`,
    ...(kind === "v1" ? ["guest.cgroup=v1"] : []),
    ...(kind === "systemd" ? ["systemd.show_status=no"] : []),
    ...(options.kernelArguments ?? []),
  ];
  const valued: readonly (readonly [option: string, value: string])[] = [
    ["machine", "q35"],
    ["accel", "tcg,thread=multi"],
    // Bun wants AVX2.
    ["cpu", "max"],
    ["smp", String(options.cpus ?? 2)],
    ["m", String(options.memoryMb ?? 2048)],
    ["display", "none"],
    ["kernel", image.kernel],
    ["initrd", image.initramfs],
    ["append", kernelArguments.join(" ")],
    ["drive", `file=${image.disk},format=raw,if=virtio,snapshot=on`],
    ["virtfs", `local,path=${repository},mount_tag=repository,security_model=none,readonly=on,multidevs=remap`],
    ["serial", `file:${join(dir, "console")}`],
    ["device", "virtio-rng-pci"],
    ["device", "virtio-serial-pci"],
    ...["agent", "stream"].flatMap((name) => [
      ["chardev", `socket,id=${name},path=${join(dir, name)},server=on,wait=off`] as const,
      ["device", `virtserialport,chardev=${name},name=${name}`] as const,
    ]),
  ];
  return ["-nodefaults", "-no-user-config", ...valued.flatMap(([option, value]) => [`-${option}`, value])];
}

/** A running virtual machine. Close it (or `await using`): it is killed, and what it wrote is gone. */
export class Guest implements AsyncDisposable {
  readonly #dir: string;
  readonly #child: Bun.Subprocess;
  readonly #waiting = new Map<string, (answer: Result) => void>();
  #agent: Socket | undefined;
  #stream: Socket | undefined;
  #streamed = "";
  #ready = false;
  #ended: string | undefined;
  #ids = 0;
  /** Called with what scripts write to /run/guest/stream, as it comes. */
  onStream: ((text: string) => void) | undefined;

  private constructor(dir: string, child: Bun.Subprocess) {
    this.#dir = dir;
    this.#child = child;
  }

  /** Boots one and waits for its agent. Throws with the console's text when it does not come up. */
  static async boot(options: GuestOptions = {}): Promise<Guest> {
    const image = await guestImage();
    const dir = await mkdtemp(join(tmpdir(), "stv-vm-"));
    const child = Bun.spawn([...WITH_US, "qemu-system-x86_64", ...machine(options, image, dir)], {
      stdin: "ignore",
      stdout: "ignore",
      stderr: Bun.file(join(dir, "qemu")),
      // The disk's changes are in a nameless file below it.
      env: { ...process.env, TMPDIR: dir },
    });
    const guest = new Guest(dir, child);
    void child.exited.then((code) => guest.#end(`qemu ended with status ${code}`));
    try {
      await guest.#connect();
      await eventually("the guest's agent", async () => guest.#readyOrGone(), BOOT_LIMIT_MS);
    } catch (error) {
      const console = await guest.console();
      await guest.close();
      throw new Error(`the guest did not boot: ${String(error)}\n--- its console ---\n${console}`, { cause: error });
    }
    return guest;
  }

  /** The last words of its console, and of qemu. */
  async console(): Promise<string> {
    const text = async (name: string): Promise<string> => readFile(join(this.#dir, name), "utf8").catch(() => "");
    return `${(await text("console")).slice(-CONSOLE_TAIL)}${await text("qemu")}`;
  }

  /**
   * Runs a bash script in the guest, in the repository's folder, with no input. One that takes longer than `timeoutMs` is ended with status 124; a guest that
   * does not even say so is killed, and this throws with its console. One script at a time: calls wait for each other.
   */
  async run(script: string, options: { readonly timeoutMs?: number } = {}): Promise<Result> {
    const limit = options.timeoutMs ?? SCRIPT_LIMIT_MS;
    this.#check();
    this.#ids += 1;
    const id = String(this.#ids);
    let answered: Result | undefined;
    this.#waiting.set(id, (answer) => {
      answered = answer;
    });
    const behind = this.#waiting.size - 1;
    this.#agent?.write(`${id} ${Math.ceil(limit / 1000)} ${Buffer.from(script).toString("base64")}\n`);
    try {
      return await eventually(
        `the guest to run: ${script.slice(0, 200)}`,
        () => {
          if (answered === undefined) this.#check();
          return answered;
        },
        (limit + ANSWER_LIMIT_MS) * (behind + 1),
      );
    } catch (error) {
      const said = this.#streamed.slice(-CONSOLE_TAIL);
      const console = await this.console();
      await this.close();
      throw new Error(
        `${String(error)}\n--- what it had written ---\n${said}\n--- the guest's console ---\n${console}`,
        { cause: error },
      );
    } finally {
      this.#waiting.delete(id);
    }
  }

  /**
   * Runs a command of this repository's tools in the guest, `bun` among them, with the harness's limits made for a machine this slow. What it prints goes to
   * {@link onStream} as it comes, and is the result's stdout.
   */
  async tool(
    command: readonly string[],
    options: { readonly env?: Readonly<Record<string, string>>; readonly timeoutMs?: number } = {},
  ): Promise<Result> {
    const env = { ...options.env, CI: "1", STEVEDORE_SLOW: String(SLOWEST) };
    const path = ["build/toolchain/bin", "node_modules/.bin"].map((folder) => join(repository, folder)).join(":");
    const variables = Object.entries(env).map(([name, value]) => `${name}=${quoted(value)}`);
    const line = ["env", ...variables, ...command.map(quoted)].join(" ");
    return this.run(
      `export PATH=${path}:$PATH\nset -o pipefail\n${line} 2>&1 | tee /run/guest/stream`,
      options.timeoutMs === undefined ? {} : { timeoutMs: options.timeoutMs },
    );
  }

  /** Like {@link run}, but throws when the script fails: for steps that only lead to what is tested. */
  async must(script: string, options: { readonly timeoutMs?: number } = {}): Promise<string> {
    const ran = await this.run(script, options);
    if (ran.code !== 0) throw new Error(`in the guest: ${script}: status ${ran.code}\n${ran.stdout}${ran.stderr}`);
    return ran.stdout;
  }

  /** Restarts the machine through its init, and waits for its agent. The disk keeps what was written. */
  async reboot(): Promise<void> {
    this.#check();
    this.#ready = false;
    // A container's process 1 and its shim stay for as long as systemd waits at the end; what the guest's image gives slow starts is ten minutes.
    await this.must(`printf '[Manager]\\nDefaultTimeoutStopSec=20\\n' >${LAST_LIMIT} && systemctl daemon-reload`);
    await this.run("(sleep 1; systemctl reboot) >/dev/null 2>&1 &");
    await eventually("the guest's agent after a restart", async () => this.#readyOrGone(), RESTART_LIMIT_MS);
    await this.must(`rm ${LAST_LIMIT} && systemctl daemon-reload`);
  }

  async close(): Promise<void> {
    this.#end("it was closed");
    this.#agent?.destroy();
    this.#stream?.destroy();
    this.#child.kill("SIGKILL");
    await this.#child.exited;
    await rm(this.#dir, { recursive: true, force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #end(why: string): void {
    this.#ended ??= why;
  }

  /** Throws when the guest is no more. */
  #check(): void {
    if (this.#ended !== undefined) throw new Error(`the guest is gone: ${this.#ended}`);
  }

  async #readyOrGone(): Promise<true | undefined> {
    this.#check();
    if (this.#ready) return true;
    if ((await this.console()).includes("Kernel panic")) throw new Error("its kernel panicked");
    return undefined;
  }

  async #connect(): Promise<void> {
    this.#agent = await eventually("qemu's socket", async () => this.#open("agent"));
    this.#stream = await eventually("qemu's socket", async () => this.#open("stream"));
    let rest = "";
    this.#agent.setEncoding("utf8");
    this.#agent.on("data", (text: string) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) this.#line(line);
    });
    this.#stream.setEncoding("utf8");
    this.#stream.on("data", (text: string) => {
      this.#streamed = (this.#streamed + text).slice(-CONSOLE_TAIL);
      this.onStream?.(text);
    });
  }

  async #open(name: string): Promise<Socket | undefined> {
    this.#check();
    return new Promise((done) => {
      const socket = createConnection(join(this.#dir, name));
      socket.once("connect", () => done(socket));
      socket.once("error", () => done(undefined));
      // Afterwards: qemu closed it, which its exit tells.
      socket.on("error", () => undefined);
    });
  }

  #line(line: string): void {
    const [word, id = "", code = "", stdout = "", stderr = ""] = line.split(" ");
    if (word === "ready") this.#ready = true;
    if (word !== "done") return;
    const text = (base64: string): string => Buffer.from(base64, "base64").toString();
    this.#waiting.get(id)?.({ code: Number(code), stdout: text(stdout), stderr: text(stderr) });
  }
}
