// Containers like one that `ctr` has made, made and run by calls of the SDK: where there are to be a thousand, the start of a client for each would be
// most of the work.
import { backgroundContext } from "@stevedore/base";
import type { Container, TaskIO } from "@stevedore/core";
import type { Client } from "@stevedore/sdk";
import { NULL_IO } from "@stevedore/sdk/local/task-streams";
import { eachOf } from "./gate.ts";

const SIGKILL = 9;

export interface CloneOptions {
  /** What of the pattern's spec is to be something else, as JSON text. Each must be there. */
  readonly replace?: readonly (readonly [from: string, to: string])[];
  readonly labels?: Readonly<Record<string, string>>;
}

/** Clones of one container, each with a snapshot, a cgroup and a record of its own. */
export class Clones {
  readonly #client: Client;
  readonly #pattern: Container;
  readonly #parent: string;
  readonly namespace: string;
  readonly #made = new Set<string>();

  private constructor(client: Client, namespace: string, pattern: Container, parent: string) {
    this.#client = client;
    this.namespace = namespace;
    this.#pattern = pattern;
    this.#parent = parent;
  }

  static async of(client: Client, namespace: string, pattern: string): Promise<Clones> {
    const context = backgroundContext({ namespace });
    const container = await client.containers.get(context, pattern);
    const { parent } = await client.snapshotter(container.snapshotter).stat(context, container.snapshotKey);
    return new Clones(client, namespace, container, parent ?? "");
  }

  /** Makes a record and its snapshot. */
  async make(id: string, { replace = [], labels = {} }: CloneOptions = {}): Promise<void> {
    const { createdAt: _created, updatedAt: _updated, ...rest } = this.#pattern;
    let text = Buffer.from(rest.spec?.value ?? new Uint8Array()).toString();
    const cgroup = (of: string): string => JSON.stringify(`/${this.namespace}/${of}`);
    for (const [from, to] of [[cgroup(rest.id), cgroup(id)] as const, ...replace]) {
      if (!text.includes(from)) throw new Error(`the spec of ${rest.id} has no ${from} to replace: ${text}`);
      text = text.replaceAll(from, to);
    }
    const spec = { typeUrl: rest.spec?.typeUrl ?? "", value: Buffer.from(text) };
    const context = this.#context();
    this.#made.add(id);
    await this.#client.snapshotter(rest.snapshotter).prepare(context, id, { parent: this.#parent });
    const record = { ...rest, id, snapshotKey: id, spec, labels: { ...rest.labels, ...labels } };
    await this.#client.containers.create(context, record);
  }

  /** Makes the task of a clone. */
  async create(id: string, io: TaskIO = NULL_IO): Promise<void> {
    const context = this.#context();
    const rootfs = await this.#client.snapshotter(this.#pattern.snapshotter).mounts(context, id);
    await this.#client.tasks.create(context, { containerId: id, rootfs, io, runtimePath: "" });
  }

  async start(id: string): Promise<void> {
    await this.#client.tasks.start(this.#context(), { containerId: id, execId: "" });
  }

  /** Kills the task of a clone, waits for its end and gives its exit status. */
  async kill(id: string): Promise<number> {
    const context = this.#context();
    const ref = { containerId: id, execId: "" };
    const exited = this.#client.tasks.wait(context, ref);
    exited.catch(() => undefined); // it is waited for below, unless the kill fails
    await this.#client.tasks.kill(context, ref, { number: SIGKILL, all: false });
    return (await exited).exitStatus;
  }

  /** Deletes a task that has ended. */
  async delete(id: string): Promise<void> {
    await this.#client.tasks.delete(this.#context(), { containerId: id, execId: "" });
  }

  /** Removes the record and the snapshot of a clone without a task. */
  async remove(id: string): Promise<void> {
    const context = this.#context();
    await this.#client.containers.delete(context, id);
    await this.#client.snapshotter(this.#pattern.snapshotter).remove(context, id);
    this.#made.delete(id);
  }

  /**
   * Removes all that are left, so many side by side, and has the daemon collect them: a thousand folders are more than a client that
   * empties the namespace waits for. They have no tasks any more.
   */
  async removeAll(parallel: number): Promise<void> {
    const left = this.ids;
    await eachOf(left.length, parallel, async (index) => {
      const id = left[index];
      if (id !== undefined) await this.remove(id);
    });
    const context = this.#context();
    const { id } = await this.#client.leases.create(context, { id: "clones-removed", labels: {} });
    await this.#client.leases.delete(context, id, { sync: true });
  }

  /** Those that were made and not removed. */
  get ids(): readonly string[] {
    return [...this.#made];
  }

  #context(): ReturnType<typeof backgroundContext> {
    return backgroundContext({ namespace: this.namespace });
  }
}
