// End-to-end cases with a dockerd of their own on the cast's containerd.
import { Dockerd } from "./dockerd.ts";
import { eventually } from "./process.ts";
import { type CastName, type RowOptions, row, type Stage } from "./row.ts";

const CASTS: readonly CastName[] = ["peer", "ours"];

export type DockerRowOptions = Pick<RowOptions, "casts"> & {
  /** More of dockerd's flags, made before it starts. */
  readonly flags?: (stage: Stage) => Promise<readonly string[]>;
};

/** Registers a case; by default with dockerd on Debian's containerd and on ours, with their own shims. */
export function dockerRow(
  id: string,
  title: string,
  { flags, ...options }: DockerRowOptions,
  body: (stage: Stage, docker: Dockerd) => Promise<void>,
): void {
  row(id, title, { casts: CASTS, timeoutMs: 240_000, ...options, ownDaemon: true }, async (t) => {
    await using docker = await Dockerd.start(t.daemon, t.namespace, await flags?.(t));
    try {
      await body(t, docker);
    } catch (error) {
      const log = (await docker.log).split("\n").slice(-15).join("\n");
      throw new Error(`${String(error)}\n--- dockerd's last words ---\n${log}`, { cause: error });
    }
  });
}

/** The ids `ctr -n moby` lists. */
export async function listed(t: Stage, what: "containers" | "tasks"): Promise<string[]> {
  const { stdout } = await t.daemon.ctr(t.cast.client, "moby", [what, "ls", "-q"]);
  return stdout.split("\n").filter((line) => line !== "");
}

/** Waits until a template of `docker inspect` gives this. */
export async function untilInspected(
  docker: Dockerd,
  container: string,
  template: string,
  wanted: string,
): Promise<void> {
  let last = "";
  await eventually(
    `${template} of ${container} to be ${wanted}`,
    async () => {
      last = await docker.inspect(container, template);
      return last === wanted ? true : undefined;
    },
    60_000,
  ).catch((error: unknown) => {
    throw new Error(`${String(error)}; last seen: ${last}`, { cause: error });
  });
}
