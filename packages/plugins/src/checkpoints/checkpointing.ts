import { randomBytes } from "node:crypto";
import {
  backgroundContext,
  classified,
  isErrorClass,
  type Logger,
  messageOf,
  type RequestContext,
  requireNamespace,
  withContext,
} from "@stevedore/base";
import type {
  AnyValue,
  ContainerStore,
  ContentStore,
  CreateTask,
  Descriptor,
  Differ,
  ExecTask,
  ExitRecord,
  LocalTaskManager,
  Mount,
  ProcessRef,
  ProcessState,
  TaskManager,
  TaskMetric,
} from "@stevedore/core";
import { MediaType } from "@stevedore/oci/media-types";
import { CheckpointFolders, requirePlainFiles } from "./folders.ts";

/** What of the caller's checkpoint options is ours to know; the rest is between the client and the shim. */
export interface CheckpointWishes {
  /** Where criu's images are to stay; "" for the content store. */
  readonly imagePath: string;
  /** The task ends with it. */
  readonly exit: boolean;
}

export interface CheckpointingOptions {
  readonly runtime: LocalTaskManager;
  readonly containers: Pick<ContainerStore, "get">;
  readonly content: Pick<ContentStore, "writer">;
  readonly differ: Differ;
  /** A folder of ours on a disk: checkpoints are as large as the memory of their containers. */
  readonly root: string;
  /** @throws unknown for options that are none of a checkpoint, in the peer's words */
  readonly wishes: (options: AnyValue | undefined, runtime: string) => CheckpointWishes;
  /** An Any as the bytes of its message. */
  readonly encodeAny: (any: AnyValue) => Uint8Array;
  readonly log: Logger;
}

/**
 * Tasks whose checkpoints are content. A checkpoint's tar is made and unpacked by the differ's workers, confined to its
 * folder; what a stranger may have put into one is refused before criu sees it.
 */
export class CheckpointingTasks implements TaskManager {
  readonly #options: CheckpointingOptions;
  readonly #runtime: LocalTaskManager;
  readonly #folders: CheckpointFolders;
  /** Folders of tasks that are not started yet, by `namespace/id`. */
  readonly #unstarted = new Map<string, readonly string[]>();
  #known: Promise<void> = Promise.resolve();

  constructor(options: CheckpointingOptions) {
    this.#options = options;
    this.#runtime = options.runtime;
    this.#folders = new CheckpointFolders(options.root);
  }

  /** Finds what an earlier daemon left, and removes what nobody needs any more. Returns at once. */
  load(): void {
    const fail = (error: unknown): void => this.#options.log.error("loading checkpoints", { error: messageOf(error) });
    this.#known = this.#findRestores().catch(fail);
    void this.#known.then(async () => this.#sweep()).catch(fail);
  }

  async create(context: RequestContext, task: CreateTask): Promise<{ readonly pid: number }> {
    const { checkpoint, ...rest } = task;
    if (checkpoint === undefined) return this.#runtime.create(context, rest);
    if (checkpoint.mediaType !== MediaType.checkpoint) {
      throw classified("unknown", `unsupported checkpoint type ${JSON.stringify(checkpoint.mediaType)}`);
    }
    const { id } = await this.#options.containers.get(context, task.containerId);
    await this.#known;
    const folder = await this.#folders.makeRestore(requireNamespace(context), id);
    try {
      await this.#unpack(context, checkpoint, folder);
      const made = await this.#runtime.create(context, { ...rest, checkpointPath: folder });
      this.#unstarted.set(keyOf(context, id), [folder]);
      return made;
    } catch (error) {
      await this.#remove(folder);
      throw error;
    }
  }

  async start(context: RequestContext, process: ProcessRef): Promise<{ readonly pid: number }> {
    const started = await this.#runtime.start(context, process);
    if (process.execId === "") await this.#forget(context, process.containerId);
    return started;
  }

  async delete(context: RequestContext, process: ProcessRef): Promise<ExitRecord> {
    if (process.execId !== "") return this.#runtime.delete(context, process);
    await this.#known;
    const key = keyOf(context, process.containerId);
    const folders = this.#unstarted.get(key) ?? [];
    const exit = await this.#runtime.delete(context, process);
    // Another of that id may have come meanwhile.
    if (this.#unstarted.get(key) === folders) this.#unstarted.delete(key);
    for (const folder of folders) await this.#remove(folder);
    return exit;
  }

  async checkpoint(
    context: RequestContext,
    containerId: string,
    { options }: { readonly options?: AnyValue },
  ): Promise<readonly Descriptor[]> {
    const container = await this.#options.containers.get(context, containerId);
    const { id } = container;
    await this.#runtime.get(context, { containerId: id, execId: "" });
    const { imagePath, exit } = this.#options.wishes(options, container.runtime.name);
    const given = options === undefined ? {} : { options };
    if (imagePath !== "") {
      await this.#runtime.checkpoint(context, id, { path: imagePath, ...given });
      return [];
    }
    const folder = await this.#folders.makeDump();
    let dumped = false;
    try {
      await this.#runtime.checkpoint(context, id, { path: folder, ...given });
      dumped = true;
      const made = await this.#pack(context, folder, container.spec);
      await this.#remove(folder);
      return made;
    } catch (error) {
      if (dumped && exit) {
        // The processes are gone, and these files are all there is of them.
        throw withContext(`the task has ended, and its checkpoint is kept in ${folder}, but it was not stored`, error);
      }
      await this.#remove(folder);
      throw error;
    }
  }

  async get(context: RequestContext, process: ProcessRef): Promise<ProcessState> {
    return this.#runtime.get(context, process);
  }

  async list(context: RequestContext): Promise<readonly ProcessState[]> {
    return this.#runtime.list(context);
  }

  async kill(
    context: RequestContext,
    process: ProcessRef,
    signal: { readonly number: number; readonly all: boolean },
  ): Promise<void> {
    return this.#runtime.kill(context, process, signal);
  }

  async exec(context: RequestContext, exec: ExecTask): Promise<void> {
    return this.#runtime.exec(context, exec);
  }

  async resizePty(
    context: RequestContext,
    process: ProcessRef,
    size: { readonly width: number; readonly height: number },
  ): Promise<void> {
    return this.#runtime.resizePty(context, process, size);
  }

  async closeIo(context: RequestContext, process: ProcessRef, streams: { readonly stdin: boolean }): Promise<void> {
    return this.#runtime.closeIo(context, process, streams);
  }

  async pause(context: RequestContext, containerId: string): Promise<void> {
    return this.#runtime.pause(context, containerId);
  }

  async resume(context: RequestContext, containerId: string): Promise<void> {
    return this.#runtime.resume(context, containerId);
  }

  async pids(
    context: RequestContext,
    containerId: string,
  ): Promise<readonly { readonly pid: number; readonly info?: AnyValue }[]> {
    return this.#runtime.pids(context, containerId);
  }

  async update(
    context: RequestContext,
    containerId: string,
    resources: { readonly resources: AnyValue; readonly annotations: Readonly<Record<string, string>> },
  ): Promise<void> {
    return this.#runtime.update(context, containerId, resources);
  }

  async metrics(context: RequestContext, filters: readonly string[]): Promise<readonly TaskMetric[]> {
    return this.#runtime.metrics(context, filters);
  }

  async wait(context: RequestContext, process: ProcessRef): Promise<ExitRecord> {
    return this.#runtime.wait(context, process);
  }

  async #unpack(context: RequestContext, { digest, size }: Descriptor, folder: string): Promise<void> {
    try {
      const tar = { mediaType: MediaType.ociLayer, digest, size };
      await this.#options.differ.apply(context, tar, { mounts: bind(folder, "rw") });
      await requirePlainFiles(folder);
    } catch (error) {
      throw withContext(`failed to unpack checkpoint ${digest}`, error);
    }
  }

  async #pack(context: RequestContext, folder: string, spec: AnyValue | undefined): Promise<readonly Descriptor[]> {
    const { differ, encodeAny } = this.#options;
    // Of its own media type, and with no label: a descriptor is all that names it.
    const packing = { upper: bind(folder, "ro"), mediaType: MediaType.ociLayer, ref: folder, labels: {} };
    const images = await differ.compare(context, [], packing);
    const config = encodeAny(spec ?? { typeUrl: "", value: new Uint8Array() });
    return [
      { ...images, mediaType: MediaType.checkpoint },
      await this.#write(context, MediaType.checkpointConfig, config),
    ];
  }

  async #write(context: RequestContext, mediaType: string, bytes: Uint8Array): Promise<Descriptor> {
    const ref = `checkpoint-config-${randomBytes(8).toString("hex")}`;
    await using writer = await this.#options.content.writer(context, { ref });
    await writer.write(bytes);
    const digest = writer.digest();
    try {
      await writer.commit(context, { size: bytes.byteLength });
    } catch (error) {
      if (!isErrorClass(error, "already-exists")) throw error;
    }
    return { mediaType, digest, size: bytes.byteLength };
  }

  async #forget(context: RequestContext, containerId: string): Promise<void> {
    await this.#known;
    const key = keyOf(context, containerId);
    const folders = this.#unstarted.get(key) ?? [];
    this.#unstarted.delete(key);
    for (const folder of folders) await this.#remove(folder);
  }

  async #findRestores(): Promise<void> {
    for (const { namespace, id, folders } of await this.#folders.restores()) {
      this.#unstarted.set(`${namespace}/${id}`, folders);
    }
  }

  /** Removes the folders of tasks that have been started or have gone, and unfinished checkpoints. */
  async #sweep(): Promise<void> {
    const { log } = this.#options;
    for (const folder of await this.#folders.dumps()) await this.#sweepDump(folder);
    for (const [key, folders] of this.#unstarted) {
      const slash = key.indexOf("/");
      const context = backgroundContext({ namespace: key.slice(0, slash) });
      try {
        const { status } = await this.#runtime.get(context, { containerId: key.slice(slash + 1), execId: "" });
        if (status === "created" || status === "unknown") continue;
      } catch (error) {
        if (!isErrorClass(error, "not-found")) {
          log.warn("a task that was to be restored does not answer", { key, error: messageOf(error) });
          continue;
        }
      }
      if (this.#unstarted.get(key) !== folders) continue;
      this.#unstarted.delete(key);
      for (const folder of folders) await this.#remove(folder);
    }
  }

  /** A whole checkpoint may be all that is left of a task; one that was not finished is of no use. */
  async #sweepDump(folder: string): Promise<void> {
    if (await Bun.file(`${folder}/inventory.img`).exists()) {
      this.#options.log.warn(
        "a checkpoint that was made when the daemon ended is kept; remove it when it is of no use",
        {
          folder,
        },
      );
      return;
    }
    await this.#remove(folder);
  }

  async #remove(folder: string): Promise<void> {
    await this.#folders
      .remove(folder)
      .catch((error: unknown) => this.#options.log.warn(`failed to remove ${folder}`, { error: messageOf(error) }));
  }
}

function bind(source: string, mode: "rw" | "ro"): readonly Mount[] {
  return [{ type: "bind", source, target: "", options: ["rbind", mode] }];
}

function keyOf(context: RequestContext, id: string): string {
  return `${requireNamespace(context)}/${id}`;
}
