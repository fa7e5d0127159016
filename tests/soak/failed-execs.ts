// Execs, attaches and resizes that fail, many times, and what the daemon and the shim hold after: used with 300 in the end-to-end lane and with 10,000 in the
// scale lane.
import { Tasks } from "@stevedore/wire/gen/containerd/services/tasks/v1/tasks_pb";
import { createGrpcTransport } from "@stevedore/wire/grpc/client";
import { createClient } from "@stevedore/wire/rpc/index";
import { eventually } from "../harness/process.ts";
import { type Held, heldBy } from "./held.ts";

/** Calls at a time: as many as a busy client has. */
const WORKERS = 8;

const PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process";

export interface FailingOptions {
  readonly address: string;
  readonly namespace: string;
  /** A container that runs. */
  readonly containerId: string;
  readonly rounds: number;
  /** In each exec's id, so that those of several calls do not meet. */
  readonly prefix?: string;
}

/**
 * In each round: an exec of a program that is not there, which fails to start and is deleted; a wait for, a state of, and a resize of a process that is not
 * there, as of a client that attaches too late.
 *
 * @throws when one of them does not fail as it has to
 */
export async function failOften({
  address,
  namespace,
  containerId,
  rounds,
  prefix = "f",
}: FailingOptions): Promise<void> {
  const transport = createGrpcTransport({ address });
  const tasks = createClient(Tasks, transport);
  const call = { timeoutMs: 60_000, metadata: { "containerd-namespace": namespace } };
  const process = { args: ["/nowhere/program"], cwd: "/", env: ["PATH=/bin"], user: { uid: 0, gid: 0 } };
  const spec = { typeUrl: PROCESS, value: Buffer.from(JSON.stringify(process)) };
  const fails = async (what: string, asked: Promise<unknown>): Promise<void> => {
    const done = await asked.then(
      () => true,
      () => false,
    );
    if (done) throw new Error(`${what} did not fail`);
  };
  let next = 0;
  const worker = async (): Promise<void> => {
    for (let round = next++; round < rounds; round = next++) {
      const execId = `${prefix}${round}`;
      const missing = { containerId, execId: `none${round}` };
      await tasks.exec({ containerId, execId, spec }, call);
      await fails("start of a program that is not there", tasks.start({ containerId, execId }, call));
      await fails("its resize", tasks.resizePty({ containerId: "none", execId, width: 80, height: 24 }, call));
      await tasks.deleteProcess({ containerId, execId }, call);
      await fails("a wait for no process", tasks.wait(missing, call));
      await fails("a state of no process", tasks.get(missing, call));
      await fails("a resize of no process", tasks.resizePty({ ...missing, width: 80, height: 24 }, call));
    }
  };
  try {
    await Promise.all(Array.from({ length: WORKERS }, worker));
  } finally {
    await transport.close();
  }
}

/** What a process holds once it is quiet: as few descriptors and threads as it had, waited for. */
export async function quiet(pid: number, before: Held): Promise<Held> {
  return eventually(`process ${pid} to hold ${before.descriptors} descriptors again`, async () => {
    const now = await heldBy(pid);
    return now.descriptors <= before.descriptors && now.threads <= before.threads ? now : undefined;
  });
}
