import { dirname, join } from "node:path";
import { messageOf } from "@stevedore/base/errors";
import { createLogger, type Logger } from "@stevedore/base/log";
import { KEEPER_VARIABLE } from "@stevedore/keeper/protocol";
import { SIGKILL } from "@stevedore/os/signals";
import { BUNDLE, readExitRecord, readOptions, readPidFile, readShimSocket } from "./bundle.ts";
import { unmountRootfs } from "./container.ts";
import { childEnvironment } from "./environment.ts";
import type { ShimFlags } from "./flags.ts";
import { logLine } from "./log.ts";
import { DEFAULT_RUNTIME_ROOT, RuntimeClient } from "./runc/client.ts";
import { isMissingContainer } from "./runc/errors.ts";
import { removeLinks } from "./socket-links.ts";

/**
 * Cleans up after a shim that is gone: kills what runs, removes the runtime's state, unmounts the rootfs. Returns a
 * DeleteResponse for stdout: the recorded exit when there is one, else the kill's.
 */
export async function cleanUp(
  flags: ShimFlags,
  env: Readonly<Record<string, string | undefined>>,
): Promise<Uint8Array> {
  // Warnings go to stderr here: the daemon logs them.
  const log = createLogger(
    {
      enabled: (level) => level === "warning" || level === "error",
      write: (level, message, fields) => {
        process.stderr.write(logLine(level, message, fields));
      },
    },
    { id: flags.id, namespace: flags.namespace },
  );
  const here = process.cwd();
  // A group's shim is called in the bundle of its first container for each of its members.
  const bundle = flags.bundle === "" ? join(dirname(here), flags.id) : flags.bundle;
  const options = await readOptions(bundle);
  const runtime = new RuntimeClient({
    command: options.binaryName,
    root: join(options.root === "" ? DEFAULT_RUNTIME_ROOT : options.root, flags.namespace),
    log: join(bundle, BUNDLE.runcLog),
    systemdCgroup: options.systemdCgroup,
    env: childEnvironment(env),
  });
  const ours = (env[KEEPER_VARIABLE] ?? "") !== "";
  if (ours) {
    // What the dead shim was about to make comes to an end first, so that it is removed and not missed.
    const { untilRuntimeEnded } = await import("./runtime-calls.ts");
    await untilRuntimeEnded(bundle, log);
    const { removeByForce } = await import("./removal.ts");
    await removeByForce({ id: flags.id, bundle, runtime, cgroup: undefined, log });
  } else {
    await runtime.delete(flags.id, true).catch((error: unknown) => {
      if (!isMissingContainer(error)) log.warn("failed to remove runc container", { error: messageOf(error) });
    });
  }
  unmountRootfs(join(bundle, BUNDLE.rootfs), { log });
  await removeSocketLinks(bundle, flags);
  const pid = initPid(bundle, log);
  const recorded = await readExitRecord(bundle);
  const exit = recorded !== undefined && recorded.pid === pid ? recorded : undefined;
  const [{ makeMessage, encodeMessage }, { timestampFromDate }, { DeleteResponseSchema }] = await Promise.all([
    import("@stevedore/wire/codec"),
    import("@stevedore/wire/light/wkt"),
    import("@stevedore/wire/gen/light/containerd/task/v3/shim_pb"),
  ]);
  const response = makeMessage(DeleteResponseSchema, {
    pid,
    exitStatus: exit?.status ?? 128 + SIGKILL,
    exitedAt: timestampFromDate(exit?.exitedAt ?? new Date()),
  });
  return encodeMessage(DeleteResponseSchema, response);
}

async function removeSocketLinks(bundle: string, { address, namespace, id }: ShimFlags): Promise<void> {
  const path = await readShimSocket(bundle);
  if (path !== undefined) await removeLinks({ dir: dirname(path), daemonAddress: address, namespace, id });
}

function initPid(bundle: string, log: Logger): number {
  try {
    return readPidFile(join(bundle, BUNDLE.initPid));
  } catch (error) {
    log.warn("failed to read init pid file", { error: messageOf(error) });
    return 0;
  }
}
