import { readFile } from "node:fs/promises";
import { classified } from "@stevedore/base";
import { isJsonObject, type JsonObject, parseJson } from "@stevedore/oci/json-lossless";
import { joinOwnStreams } from "@stevedore/sdk/local/shim-exec";
import { jsonAny, PROCESS_TYPE_URL } from "@stevedore/sdk/spec/any";
import { boolFlag, stringFlag, stringsFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";
import { taskOutputs } from "../task-output.ts";
import { connectShim, shimId } from "./connect.ts";

/** `ctr shim exec` */
export const command = ctrCommand({
  flags: {
    stdin: stringFlag("stdin", "specify the path to the stdin fifo"),
    stdout: stringFlag("stdout", "specify the path to the stdout fifo"),
    stderr: stringFlag("stderr", "specify the path to the stderr fifo"),
    tty: boolFlag("tty", "enable tty support", { aliases: ["t"] }),
    attach: boolFlag("attach", "stay attached to the container and open the fifos", { aliases: ["a"] }),
    env: stringsFlag("env", "add environment vars", { aliases: ["e"] }),
    cwd: stringFlag("cwd", "current working directory"),
    spec: stringFlag("spec", "runtime spec"),
  },
  action: async (call) => {
    const { args, flags, io } = call;
    const execId = args[0] ?? "";
    if (execId === "") throw new Error("exec id must be provided");
    await using shim = await connectShim(call);
    // The peer sends the exec's id as the container's, which no shim knows; the container is the one of --id.
    const id = shimId(call);
    if (id === "") throw classified("invalid-argument", "container id (--id) must be specified");
    const spec = await readProcess(flags.spec);
    if (flags.cwd !== "") spec["cwd"] = flags.cwd;
    if (flags.env.length > 0) {
      const before = spec["env"];
      spec["env"] = [...(Array.isArray(before) ? before : []), ...flags.env];
    }
    // A shim wants the spec to say what the request says.
    spec["terminal"] = flags.tty;
    const streams = {
      stdin: flags.stdin,
      stdout: flags.stdout,
      stderr: flags.tty ? "" : flags.stderr,
      terminal: flags.tty,
    };
    await using joined = joinOwnStreams(shim, { id, execId, io: streams, ...taskOutputs(io) });
    await shim.exec({ id, execId, io: streams, spec: jsonAny(PROCESS_TYPE_URL, spec) });
    const pid = await shim.start(id, execId);
    io.stdout.write(`exec running with pid ${pid}\n`);
    if (flags.attach) await joined.attach();
    return 0;
  },
});

async function readProcess(path: string): Promise<JsonObject> {
  const tree = parseJson(await readFile(path, "utf8"));
  if (!isJsonObject(tree)) throw classified("invalid-argument", `read process from ${path}: not a JSON object`);
  return { ...tree };
}
