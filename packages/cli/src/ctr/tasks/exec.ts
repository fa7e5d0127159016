import { decodeText } from "@stevedore/base";
import type { JsonObject } from "@stevedore/oci/json-lossless";
import { isJsonObject, parseJson } from "@stevedore/oci/json-lossless";
import { runInForeground } from "@stevedore/sdk/local/task-run";
import { logUriIo, NULL_IO } from "@stevedore/sdk/local/task-streams";
import { jsonAny, PROCESS_TYPE_URL } from "@stevedore/sdk/spec/any";
import type { AnyValue, Container } from "@stevedore/sdk/types";
import { boolFlag, stringFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";
import type { Session } from "../globals.ts";
import { taskOutputs } from "../task-output.ts";
import { runningContainer } from "./find.ts";

/** `ctr tasks exec` */
export const command = ctrCommand({
  argsUsage: "[flags] CONTAINER CMD [ARG...]",
  flags: {
    cwd: stringFlag("cwd", "working directory of the new process"),
    tty: boolFlag("tty", "allocate a TTY for the container", { aliases: ["t"] }),
    detach: boolFlag("detach", "detach from the task after it has started execution", { aliases: ["d"] }),
    execId: stringFlag("exec-id", "exec specific id for the process"),
    fifoDir: stringFlag("fifo-dir", "directory used for storing IO FIFOs"),
    logUri: stringFlag("log-uri", "log uri for custom shim logging"),
    user: stringFlag("user", "user id or name"),
  },
  action: async ({ args, flags, globals, io }) => {
    const [wanted, ...command] = args;
    if (flags.execId === "") throw new Error("exec id must be provided");
    if (command.length === 0) throw new Error("a command to execute must be provided");
    await using session = await globals.connect();
    const { client, context } = session;
    const container = await runningContainer(session, wanted);
    const containerId = container.id;
    const spec = await processSpec(session, container, {
      command,
      terminal: flags.tty,
      cwd: flags.cwd,
      user: flags.user,
    });
    const process = { containerId, execId: flags.execId };
    const elsewhere = flags.logUri === "" ? undefined : logUriIo(flags.logUri, { terminal: flags.tty });
    if (elsewhere !== undefined || flags.detach) {
      await client.tasks.exec(context, { ...process, io: elsewhere ?? NULL_IO, spec });
      const exited = client.tasks.wait(context, process);
      exited.catch(() => undefined);
      await client.tasks.start(context, process);
      if (flags.detach) return 0;
      const { exitStatus } = await exited;
      await client.tasks.delete(context, process);
      return exitStatus;
    }
    let added = false;
    try {
      const { exitStatus } = await runInForeground(client, context, {
        process,
        terminal: flags.tty,
        ...(flags.fifoDir === "" ? {} : { folder: flags.fifoDir }),
        ...taskOutputs(io),
        create: async (streams) => {
          await client.tasks.exec(context, { ...process, io: streams, spec });
          added = true;
        },
      });
      await client.tasks.delete(context, process);
      return exitStatus;
    } catch (error) {
      if (added) await client.tasks.delete(context, process).catch(() => undefined);
      throw error;
    }
  },
});

interface ExecRequest {
  readonly command: readonly string[];
  readonly terminal: boolean;
  readonly cwd: string;
  readonly user: string;
}

/** The container's own process with another command; what the spec says beyond our types stays as it is. */
async function processSpec(session: Session, container: Container, request: ExecRequest): Promise<AnyValue> {
  const tree = container.spec === undefined ? undefined : parseJson(decodeText(container.spec.value));
  const process: JsonObject =
    isJsonObject(tree) && isJsonObject(tree["process"]) ? { ...tree["process"] } : { cwd: "/" };
  process["args"] = [...request.command];
  process["terminal"] = request.terminal;
  if (request.cwd !== "") process["cwd"] = request.cwd;
  if (request.user !== "") {
    const [{ readUserFiles }, { resolveUser }] = await Promise.all([
      import("@stevedore/sdk/local/root-files"),
      import("@stevedore/sdk/spec/user"),
    ]);
    const { client, context } = session;
    const mounts =
      container.snapshotKey === ""
        ? []
        : await client.snapshotter(container.snapshotter).mounts(context, container.snapshotKey);
    const files = mounts.length === 0 ? { passwd: "", group: "" } : await readUserFiles(mounts);
    const { uid, gid, additionalGids } = resolveUser(request.user, files);
    process["user"] = { uid, gid, additionalGids: [...additionalGids] };
  }
  return jsonAny(PROCESS_TYPE_URL, process);
}
