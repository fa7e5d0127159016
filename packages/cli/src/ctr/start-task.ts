/** Creates and starts the task of a container, in the foreground or detached: `ctr run` and `ctr tasks start`. */
import { writeFile } from "node:fs/promises";
import { decodeText } from "@stevedore/base";
import { isJsonObject, parseJson } from "@stevedore/oci/json-lossless";
import { noPivotOptions } from "@stevedore/sdk/local/runc-options";
import { runInForeground } from "@stevedore/sdk/local/task-run";
import { logUriIo, NULL_IO, openTaskStreams } from "@stevedore/sdk/local/task-streams";
import type { AnyValue, Container, Descriptor, Mount, TaskIO } from "@stevedore/sdk/types";
import type { CommandIO } from "../kit/command.ts";
import type { Session } from "./globals.ts";
import { taskOutputs } from "./task-output.ts";

export interface StartRequest {
  readonly container: Container;
  /** Mounts of its root file system, of somebody who has just prepared it; absent: the snapshotter is asked. */
  readonly mounts?: readonly Mount[];
  /** The memory of a checkpoint to go on from. */
  readonly checkpoint?: Descriptor;
  readonly detach: boolean;
  readonly nullIo: boolean;
  readonly logUri: string;
  readonly fifoDir: string;
  readonly pidFile: string;
  readonly noPivot: boolean;
}

/** @returns the exit status of the process; 0 at once when detached. */
export async function startTask(session: Session, io: CommandIO, request: StartRequest): Promise<number> {
  const { container } = request;
  const { client, context } = session;
  const process = { containerId: container.id, execId: "" };
  const terminal = specTerminal(container.spec);
  if (request.nullIo && terminal) throw new Error("tty and null-io cannot be used together");
  const rootfs = request.mounts ?? (await containerMounts(session, container));
  const options: AnyValue | undefined = request.noPivot ? await noPivotOptions(container.runtime.options) : undefined;
  const create = async (streams: TaskIO): Promise<void> => {
    const { pid } = await client.tasks.create(context, {
      containerId: container.id,
      rootfs,
      io: streams,
      runtimePath: "",
      ...(request.checkpoint === undefined ? {} : { checkpoint: request.checkpoint }),
      ...(options === undefined ? {} : { options }),
    });
    if (request.pidFile !== "") await writeFile(request.pidFile, String(pid));
  };
  const elsewhere = streamsElsewhere(request, terminal);
  if (elsewhere !== undefined || request.detach) {
    const dropStreams = await createDetached(request, { terminal, create, elsewhere });
    if (!request.detach) {
      const exited = client.tasks.wait(context, process);
      exited.catch(() => undefined);
      await startOrDelete(session, process);
      return (await exited).exitStatus;
    }
    try {
      await startOrDelete(session, process);
    } catch (error) {
      await dropStreams();
      throw error;
    }
    return 0;
  }
  let created = false;
  try {
    const { exitStatus } = await runInForeground(client, context, {
      process,
      terminal,
      ...(request.fifoDir === "" ? {} : { folder: request.fifoDir }),
      ...taskOutputs(io),
      create: async (streams) => {
        await create(streams);
        created = true;
      },
    });
    return exitStatus;
  } catch (error) {
    if (created) await client.tasks.delete(context, process).catch(() => undefined);
    throw error;
  }
}

function streamsElsewhere(request: StartRequest, terminal: boolean): TaskIO | undefined {
  if (request.nullIo) return NULL_IO;
  return request.logUri === "" ? undefined : logUriIo(request.logUri, { terminal });
}

interface Detached {
  readonly terminal: boolean;
  readonly create: (io: TaskIO) => Promise<void>;
  readonly elsewhere: TaskIO | undefined;
}

// A detached task gets FIFOs too, so that `ctr tasks attach` can join it; they stay when this command ends. What is given back
// removes them, for a task that does not start.
async function createDetached(
  request: StartRequest,
  { terminal, create, elsewhere }: Detached,
): Promise<() => Promise<void>> {
  if (elsewhere !== undefined) {
    await create(elsewhere);
    return async () => undefined;
  }
  const streams = openTaskStreams({
    id: request.container.id,
    ...(request.fifoDir === "" ? {} : { folder: request.fifoDir }),
    terminal,
    stdin: noInput(),
    stdout: () => undefined,
    stderr: () => undefined,
  });
  const drop = async (): Promise<void> => streams[Symbol.asyncDispose]();
  try {
    await create(streams.io);
  } catch (error) {
    await drop();
    throw error;
  }
  return drop;
}

// An input that never comes and never ends: a detached shell must not see the end of its input.
async function* noInput(): AsyncGenerator<Uint8Array> {
  await new Promise<never>(() => undefined);
  yield new Uint8Array();
}

async function startOrDelete(
  { client, context }: Session,
  process: { readonly containerId: string; readonly execId: string },
): Promise<void> {
  try {
    await client.tasks.start(context, process);
  } catch (error) {
    await client.tasks.delete(context, process).catch(() => undefined);
    throw error;
  }
}

/** The mounts of a container's root file system; none for one that brings its own. */
async function containerMounts({ client, context }: Session, container: Container): Promise<readonly Mount[]> {
  if (container.snapshotKey === "") return [];
  return client.snapshotter(container.snapshotter).mounts(context, container.snapshotKey);
}

/** Whether a container's process has a terminal, by its spec. */
export function specTerminal(spec: AnyValue | undefined): boolean {
  if (spec === undefined) return false;
  const tree = parseJson(decodeText(spec.value));
  const process = isJsonObject(tree) ? tree["process"] : undefined;
  return isJsonObject(process) && process["terminal"] === true;
}
