import { encodeText } from "@stevedore/base/bytes";
import { classified, ERROR_CLASSES } from "@stevedore/base/errors";
import { duplicate, memoryFile, OwnedFd } from "@stevedore/os/fd";
import { connectUnix, SOCK } from "@stevedore/os/socket";
import { Channel } from "./channel.ts";
import type { KeptExit, Owner, ProcessName, Request, SpawnOrder } from "./protocol.ts";
import { exitField, fieldsOf, numberField, processField, textField, textsField } from "./read-message.ts";

/** What a keeper holds of one process; the descriptors are the receiver's. */
export interface Taken {
  readonly exec: string;
  readonly fds: ReadonlyMap<string, OwnedFd>;
  readonly process: ProcessName | undefined;
  readonly exit: KeptExit | undefined;
}

/** A program that the keeper started. */
export interface Spawned {
  readonly pid: number;
  /** Rejects when the keeper dies before it could tell. */
  readonly exited: Promise<{ readonly code: number; readonly signal?: number }>;
}

export interface KeeperStatus {
  readonly containers: number;
  readonly descriptors: number;
  readonly children: number;
}

interface Reply {
  readonly fields: Record<string, unknown>;
  readonly fds: OwnedFd[];
}

/** A connection to a keeper. */
export class KeeperClient {
  readonly #channel: Channel;
  readonly #pending = new Map<number, { take(reply: Reply): void; fail(error: Error): void }>();
  readonly #closed = Promise.withResolvers<void>();
  #lastId = 0;

  private constructor(socket: OwnedFd) {
    this.#channel = new Channel(socket);
    void this.#receive();
  }

  /** @throws not-found or unavailable when no keeper listens there */
  static connect(path: string): KeeperClient {
    return new KeeperClient(connectUnix(path, { kind: SOCK.SEQPACKET }));
  }

  /** Settles when the connection has ended. */
  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  get isClosed(): boolean {
    return this.#channel.isClosed;
  }

  /** Deposits copies of descriptors, which stay the caller's. Returns at once; a keeper that is gone is no error. */
  hold(owner: Owner, fds: Readonly<Record<string, number>>, process?: ProcessName): void {
    const names = Object.keys(fds);
    const request: Request = { op: "hold", owner, names, ...(process === undefined ? {} : { process }) };
    this.#channel.sendCopies(request, Object.values(fds));
  }

  /** Has the keeper close some of a process's descriptors, or all it has of it; of init that means the container. */
  drop(owner: Owner, names?: readonly string[]): void {
    const request: Request = { op: "drop", owner, ...(names === undefined ? {} : { names }) };
    this.#channel.send(request);
  }

  /** Copies of all that is held of a container. */
  async take(namespace: string, container: string): Promise<Taken[]> {
    const taken: Taken[] = [];
    const owner = { namespace, container, exec: "" };
    await this.#ask(
      (id): Request => ({ op: "take", id, owner }),
      [],
      ({ fields, fds }) => {
        if (fields["exec"] === undefined) return true;
        const names = textsField(fields["names"]);
        taken.push({
          exec: textField(fields["exec"]),
          fds: new Map(names.flatMap((name, at) => (fds[at] === undefined ? [] : [[name, fds[at]] as const]))),
          process: fields["process"] === undefined ? undefined : processField(fields["process"]),
          exit: fields["exit"] === undefined ? undefined : exitField(fields["exit"]),
        });
        return undefined;
      },
    );
    return taken;
  }

  /** The exit of a process when the keeper reaps it (or has); undefined when it is no child of the keeper. */
  watch(process: ProcessName): Promise<KeptExit | undefined> {
    return this.#ask(
      (id): Request => ({ op: "watch", id, process }),
      [],
      ({ fields }) => ({ exit: fields["exit"] === undefined ? undefined : exitField(fields["exit"]) }),
    ).then(({ exit }) => exit);
  }

  /** Has the keeper start a program. The descriptors stay the caller's. */
  async spawn(
    order: SpawnOrder,
    stdio: { readonly stdin: number; readonly stdout: number; readonly stderr: number },
  ): Promise<Spawned> {
    const spawned = Promise.withResolvers<number>();
    const fds = [
      new OwnedFd(memoryFile(encodeText(JSON.stringify(order)))),
      ...[stdio.stdin, stdio.stdout, stdio.stderr].map((fd) => new OwnedFd(duplicate(fd))),
    ];
    const exited = this.#ask(
      (id): Request => ({ op: "spawn", id }),
      fds,
      ({ fields }) => {
        if (fields["op"] === "spawned") {
          spawned.resolve(numberField(fields["pid"]));
          return undefined;
        }
        const { code, signal } = fields;
        return { code: numberField(code), ...(signal === undefined ? {} : { signal: numberField(signal) }) };
      },
    );
    exited.catch((error: unknown) => spawned.reject(error));
    return { pid: await spawned.promise, exited };
  }

  /** Keeps the keeper from ending for as long as this connection lasts. @returns the keeper's pid */
  attend(): Promise<number> {
    return this.#ask(
      (id): Request => ({ op: "attend", id }),
      [],
      ({ fields }) => numberField(fields["pid"]),
    );
  }

  /** Tells that the daemon goes. Whether the keeper goes too. */
  leave(): Promise<boolean> {
    return this.#ask(
      (id): Request => ({ op: "leave", id }),
      [],
      ({ fields }) => ({ ends: fields["ends"] === true }),
    ).then(({ ends }) => ends);
  }

  status(): Promise<KeeperStatus> {
    return this.#ask(
      (id): Request => ({ op: "status", id }),
      [],
      ({ fields }) => ({
        containers: numberField(fields["containers"]),
        descriptors: numberField(fields["descriptors"]),
        children: numberField(fields["children"]),
      }),
    );
  }

  close(): void {
    this.#channel.close();
  }

  /** Sends a request and takes its answers until `take` returns something. */
  #ask<T>(make: (id: number) => Request, fds: readonly OwnedFd[], take: (reply: Reply) => T | undefined): Promise<T> {
    const id = ++this.#lastId;
    const done = Promise.withResolvers<T>();
    const settle = (): void => {
      this.#pending.delete(id);
    };
    this.#pending.set(id, {
      take: (reply) => {
        try {
          const { op, message, errorClass } = reply.fields;
          if (op === "failed")
            throw classified(ERROR_CLASSES.find((one) => one === errorClass) ?? "unknown", textField(message));
          const result = take(reply);
          if (result === undefined) return;
          settle();
          done.resolve(result);
        } catch (error) {
          settle();
          done.reject(error);
        }
      },
      fail: (error) => {
        settle();
        done.reject(error);
      },
    });
    if (this.isClosed) {
      for (const fd of fds) fd[Symbol.dispose]();
      this.#pending.get(id)?.fail(gone());
    } else {
      try {
        this.#channel.send(make(id), fds);
      } catch (error) {
        settle();
        done.reject(error);
      }
    }
    return done.promise;
  }

  async #receive(): Promise<void> {
    for await (const { message, fds } of this.#channel.packets()) {
      const fields = fieldsOf(message);
      const pending = this.#pending.get(Number(fields["id"]));
      if (pending === undefined) for (const fd of fds) fd[Symbol.dispose]();
      else pending.take({ fields, fds });
    }
    for (const pending of this.#pending.values()) pending.fail(gone());
    this.#closed.resolve();
  }
}

function gone(): Error {
  return classified("unavailable", "the keeper is gone");
}
