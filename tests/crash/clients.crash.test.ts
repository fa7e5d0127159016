// Clients that are killed at random moments of run, exec, kill and delete: nothing of what they began may stay.
import { expect, test } from "bun:test";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Daemon, type Maker } from "../harness/daemon.ts";
import { IMAGE, ociArchive } from "../harness/images.ts";
import {
  clientEnvironment,
  LANE_MS,
  randomFrom,
  removeOfClients,
  SEED,
  settle,
  shims,
  taskLeftovers,
} from "./leftovers.ts";

/** Clients at a time: more than the cores of a small machine. */
const CLIENTS = 6;
/** A client that is not killed by then has long ended. */
const LONGEST_LIFE_MS = 700;
/** What one round may take besides its clients' lives. */
const LIMIT_MS = 120_000;

/** Annotation that gives a container a shim apart from those of other groups. */
const GROUP = "io.containerd.runc.v2.group";

const SHIMS: readonly { readonly what: string; readonly shim: Maker; readonly apart: boolean }[] = [
  { what: "shared shims", shim: "ours", apart: false },
  { what: "a shim for each", shim: "ours", apart: true },
  { what: "Debian's shims", shim: "debian", apart: true },
];

for (const { what, shim, apart } of SHIMS) {
  test(
    `F19 F30: killed clients leave nothing, ${what}`,
    async () => {
      const random = randomFrom(SEED);
      const namespace = `stvclients${process.pid}-${Date.now()}`;
      const end = performance.now() + LANE_MS / SHIMS.length;
      await using daemon = await Daemon.start({ maker: "ours", shim, args: ["--log-level", "debug"] });
      daemon.use(namespace);
      const env = await clientEnvironment(daemon);
      const archive = join(daemon.dir, "image.tar");
      await writeFile(archive, await ociArchive());
      expect((await daemon.ctr("ours", namespace, ["images", "import", archive])).code).toBe(0);

      const ctr = async (...args: string[]): Promise<string[]> => {
        const ran = await daemon.ctr("ours", namespace, args);
        return ran.stdout.split("\n").filter((line) => line !== "");
      };
      let lives = 0;
      const life = async (): Promise<void> => {
        lives += 1;
        const id = `c${lives}`;
        const who: Maker = apart || random() < 0.8 ? "ours" : "debian";
        const group = apart && shim === "ours" ? ["--annotation", `${GROUP}=${id}`] : [];
        const long = ["run", "-d", ...group, IMAGE, id, "sleep", "100"];
        const args = random() < 0.5 ? ["run", "--rm", ...group, IMAGE, id, "true"] : long;
        const client = daemon.startCtr(who, namespace, args, { env });
        await Promise.race([client.exited, Bun.sleep(random() * LONGEST_LIFE_MS)]);
        await client.stop("SIGKILL");
        if (random() < 0.5) return;
        // The same id again, or an end that is cut off too, while the first may still be under way.
        const again = random() < 0.5 ? long : ["tasks", "rm", "--force", id];
        const second = daemon.startCtr("ours", namespace, again, { env });
        await Promise.race([second.exited, Bun.sleep(random() * LONGEST_LIFE_MS)]);
        await second.stop("SIGKILL");
      };

      let rounds = 0;
      do {
        rounds += 1;
        await Promise.all(Array.from({ length: CLIENTS }, life));
        // Tasks that a killed client began appear a moment later; what has a task is ended by it.
        const emptied = async (): Promise<string[]> => {
          for (const task of await ctr("tasks", "ls", "-q")) await ctr("tasks", "rm", "--force", task);
          for (const container of await ctr("containers", "ls", "-q")) await ctr("containers", "rm", container);
          return [...(await ctr("containers", "ls", "-q")), ...(await taskLeftovers(daemon, namespace))];
        };
        const left = await settle(emptied, 20_000);
        if (left.length > 0)
          process.stderr.write(
            (await daemon.log)
              .split("\n")
              .filter((line) => !line.includes("loading plugin"))
              .join("\n"),
          );
        expect({ round: rounds, left }).toEqual({ round: rounds, left: [] });
        await removeOfClients(daemon);
      } while (performance.now() < end);
      process.stdout.write(`${lives} clients in ${rounds} rounds\n`);
      await daemon.clear(namespace);
      const idle = async (): Promise<string[]> => (await shims(daemon)).map(({ pid, command }) => `${pid} ${command}`);
      // Shims in common may wait for the next container, and so does the spare; those of one container may not.
      const own = async (): Promise<string[]> => (await idle()).filter((line) => !line.includes(" -id spare-"));
      const left = apart ? await settle(own) : (await idle()).slice(2);
      const ids = left.map((line) => / -id (\S+)/.exec(line)?.[1] ?? line);
      const told = (await daemon.log).split("\n").filter((line) => ids.some((id) => RegExp(`\\b${id}\\b`).test(line)));
      if (left.length > 0) process.stderr.write(`${told.join("\n")}\n`);
      expect(left).toEqual([]);
      await daemon.stop();
      expect(await settle(idle, 5_000)).toEqual([]);
    },
    LANE_MS + LIMIT_MS,
  );
}
