import { concatBytes, decodeText } from "@stevedore/base/bytes";
import { messageOf } from "@stevedore/base/errors";
import { spawnedPids } from "@stevedore/os/children";
import { duplicate, OwnedFd, readInto, writeFrom } from "@stevedore/os/fd";
import { ownChildren, processStat, waitPid } from "@stevedore/os/process";
import { type Child, type ExitStatus, spawnChild } from "@stevedore/os/spawn";
import { Channel } from "./channel.ts";
import { exitLine } from "./exit-line.ts";
import { type Held, Holdings, nameOf } from "./holdings.ts";
import { type Answer, JOURNAL, type KeptExit, type ProcessName } from "./protocol.ts";
import { fieldsOf, numberField, orderOf, ownerField, processField, textField, textsField } from "./read-message.ts";

/** What one keeper holds and waits for. Its connections come from outside; see main.ts. */
export class Keeper {
  readonly #holdings = new Holdings();
  readonly #watchers = new Map<string, ((exit: KeptExit | undefined) => void)[]>();
  readonly #daemons = new Set<Channel>();
  readonly #changed: () => void;
  #queued = false;

  /** @param changed called when something ended, so that the keeper may have become needless. */
  constructor(changed: () => void) {
    this.#changed = changed;
    process.on("SIGCHLD", () => {
      if (this.#queued) return;
      this.#queued = true;
      // Signals come in bursts; one look after the burst serves them all.
      queueMicrotask(() => {
        this.#queued = false;
        this.reap();
      });
    });
  }

  /** Whether a daemon is connected. */
  get isAttended(): boolean {
    return this.#daemons.size > 0;
  }

  /** Whether nothing would be lost with this process. */
  get isNeedless(): boolean {
    return this.#daemons.size === 0 && this.#holdings.containers === 0 && this.#childCount() === 0;
  }

  /** Serves a connection until it ends. */
  async serve(socket: OwnedFd): Promise<void> {
    using channel = new Channel(socket);
    try {
      for await (const { message, fds } of channel.packets()) {
        let id = 0;
        try {
          const fields = fieldsOf(message);
          if (fields["id"] !== undefined) id = numberField(fields["id"]);
          this.#take(channel, { fields, id, fds });
        } catch (error) {
          channel.send({ op: "failed", id, message: messageOf(error), errorClass: "unknown" } satisfies Answer);
        } finally {
          for (const fd of fds) fd[Symbol.dispose](); // those that were taken over are released
        }
      }
    } finally {
      this.#daemons.delete(channel);
      this.#changed();
    }
  }

  /** Looks at every child: those that ended and are not ours by spawn are orphans. */
  reap(): void {
    for (const pid of ownChildren()) {
      if (spawnedPids.has(pid)) continue;
      const stat = processStat(pid);
      if (stat?.state !== "Z") continue;
      const status = waitPid(pid);
      if (status === undefined) continue;
      this.#ended({ pid, start: String(stat.startTicks), code: status.code, at: Date.now() });
    }
    this.#changed();
  }

  #ended(exit: KeptExit): void {
    const held = this.#holdings.ended(exit);
    if (held !== undefined) writeExit(held);
    const name = nameOf(exit);
    for (const tell of this.#watchers.get(name) ?? []) tell(exit);
    this.#watchers.delete(name);
  }

  #childCount(): number {
    return ownChildren().length;
  }

  #take(
    channel: Channel,
    request: { readonly fields: Record<string, unknown>; readonly id: number; readonly fds: OwnedFd[] },
  ): void {
    const { fields, id, fds } = request;
    const answer = (message: Answer, copies: readonly OwnedFd[] = []): void => channel.send(message, copies);
    const op = textField(fields["op"]);
    switch (op) {
      case "hold": {
        const names = textsField(fields["names"]);
        const process = fields["process"] === undefined ? undefined : processField(fields["process"]);
        const owner = ownerField(fields["owner"]);
        // From here on nothing throws: what was taken would be nobody's.
        const taken = new Map<string, OwnedFd>();
        for (const [at, name] of names.entries()) {
          const fd = fds[at];
          if (fd === undefined) continue;
          taken.get(name)?.[Symbol.dispose]();
          taken.set(name, new OwnedFd(fd.release()));
        }
        const held = this.#holdings.hold(owner, process, taken);
        // It ended before its name was known here.
        if (process !== undefined && held.exit !== undefined) writeExit(held);
        return;
      }
      case "drop": {
        const names = fields["names"];
        this.#holdings.drop(ownerField(fields["owner"]), names === undefined ? undefined : textsField(names));
        this.#changed();
        return;
      }
      case "take":
        for (const { owner, fds: kept, process, exit } of this.#holdings.of(ownerField(fields["owner"]))) {
          answer(
            {
              op: "held",
              id,
              exec: owner.exec,
              names: [...kept.keys()],
              ...(process === undefined ? {} : { process }),
              ...(exit === undefined ? {} : { exit }),
            },
            [...kept.values()].map(({ fd }) => new OwnedFd(duplicate(fd))),
          );
        }
        answer({ op: "held", id });
        return;
      case "watch":
        this.#watch(processField(fields["process"]), (exit) => {
          answer(exit === undefined ? { op: "exit", id } : { op: "exit", id, exit });
        });
        return;
      case "spawn":
        this.#spawn(id, fds, answer);
        return;
      case "attend":
        this.#daemons.add(channel);
        this.#changed();
        answer({ op: "attended", id, pid: process.pid });
        return;
      case "leave":
        this.#daemons.delete(channel);
        answer({ op: "left", id, ends: this.isNeedless });
        this.#changed();
        return;
      case "status": {
        const { containers, descriptors } = this.#holdings;
        answer({ op: "status", id, containers, descriptors, children: this.#childCount() });
        return;
      }
      default:
        answer({ op: "failed", id, message: `keeper: unknown request ${op}`, errorClass: "not-implemented" });
    }
  }

  #watch(wanted: ProcessName, tell: (exit: KeptExit | undefined) => void): void {
    this.reap();
    const known = this.#holdings.exitOf(wanted);
    const stat = processStat(wanted.pid);
    const isOurs = stat !== undefined && String(stat.startTicks) === wanted.start && stat.parent === process.pid;
    if (known !== undefined || !isOurs) {
      tell(known);
      return;
    }
    const name = nameOf(wanted);
    this.#watchers.set(name, [...(this.#watchers.get(name) ?? []), tell]);
  }

  #spawn(id: number, fds: readonly OwnedFd[], answer: (message: Answer) => void): void {
    const [order, stdin, stdout, stderr] = fds;
    if (order === undefined || stdin === undefined || stdout === undefined || stderr === undefined) {
      answer({ op: "failed", id, message: "keeper: spawn needs four descriptors", errorClass: "invalid-argument" });
      return;
    }
    const { argv, ...options } = orderOf(JSON.parse(readAll(order.fd)));
    const child = spawnChild(argv, {
      ...options,
      stdin: { fd: stdin.fd },
      stdout: { fd: stdout.fd },
      stderr: { fd: stderr.fd },
    });
    answer({ op: "spawned", id, pid: child.pid });
    void this.#untilEnded(child, (ended) => answer({ op: "ended", id, ...ended }));
  }

  async #untilEnded(child: Child, tell: (ended: ExitStatus) => void): Promise<void> {
    const { code, signal } = await child.exited;
    child.dispose();
    tell({ code, ...(signal === undefined ? {} : { signal }) });
    this.reap();
  }
}

/** Writes the exit of a process into its container's journal, once. */
function writeExit(held: Held): void {
  const journal = held.fds.get(JOURNAL);
  if (journal === undefined || held.exit === undefined) return;
  const written = writeFrom(journal.fd, exitLine(held.owner.exec, held.exit, "keeper"));
  if (written < 0) process.stderr.write(`stevedore keeper: write exit of ${held.exit.pid}: errno ${-written}\n`);
}

/** All of a memory file: never blocks. */
function readAll(fd: number): string {
  const parts: Uint8Array[] = [];
  const buffer = new Uint8Array(64 << 10);
  for (let count = readInto(fd, buffer); count > 0; count = readInto(fd, buffer)) parts.push(buffer.slice(0, count));
  return decodeText(concatBytes(parts));
}
