import type { ShimProcessState } from "@stevedore/sdk/local/shim-client";
import { intFlag, stringFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";
import { goJson, type JsonTree } from "../json.ts";
import { apiVersion, connectShim, shimId } from "./connect.ts";

/** `ctr shim state` */
export const command = ctrCommand({
  flags: {
    taskId: stringFlag("task-id", "task ID", { aliases: ["t"] }),
    apiVersion: intFlag("api-version", "shim API version {2,3}", { initial: 3 }),
  },
  action: async (call) => {
    const version = apiVersion(call.flags.apiVersion);
    await using shim = await connectShim(call);
    const state = await shim.state(call.flags.taskId === "" ? shimId(call) : call.flags.taskId, version);
    call.io.stdout.write(`${goJson(stateTree(state))}\n`);
    return 0;
  },
});

/** Fields as Go's JSON of the message has them: proto names, none that is zero. */
function stateTree(state: ShimProcessState): JsonTree {
  const { exitedAt } = state;
  const ended =
    exitedAt === undefined ? {} : { exited_at: nonZero({ seconds: exitedAt.seconds, nanos: exitedAt.nanos }) };
  const first = nonZero({ id: state.id, bundle: state.bundle, pid: state.pid, status: state.status });
  const streams = nonZero({ stdin: state.stdin, stdout: state.stdout, stderr: state.stderr, terminal: state.terminal });
  return {
    ...first,
    ...streams,
    ...nonZero({ exit_status: state.exitStatus }),
    ...ended,
    ...nonZero({ exec_id: state.execId }),
  };
}

type Scalar = string | number | bigint | boolean;

function nonZero(fields: Readonly<Record<string, Scalar>>): Readonly<Record<string, Scalar>> {
  return Object.fromEntries(
    Object.entries(fields).filter(([, value]) => value !== "" && value !== 0 && value !== 0n && value !== false),
  );
}
