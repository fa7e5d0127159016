import { isErrorClass, messageOf } from "@stevedore/base";
import { normalizeImageName } from "@stevedore/oci/docker-reference";
import { parseReference } from "@stevedore/oci/reference";
import { withLease } from "@stevedore/sdk/lease";
import { boolFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";
import { byTransferOr, imageStore } from "./transfer-way.ts";

/** `ctr images tag` */
export const command = ctrCommand({
  argsUsage: "[flags] <source_ref> <target_ref> [<target_ref>, ...]",
  description: "tag an image for use in containerd",
  flags: {
    force: boolFlag("force", "force target_ref to be created, regardless if it already exists"),
    local: boolFlag("local", "run tag locally rather than through transfer API"),
    skipReferenceCheck: boolFlag("skip-reference-check", "skip the strict check for reference names"),
  },
  action: async ({ args, flags, globals, io }) => {
    const [source, ...targets] = args;
    if (source === undefined || source === "") throw new Error("please provide an image reference to tag from");
    if (targets.length === 0) throw new Error("please provide an image reference to tag to");
    if (!flags.skipReferenceCheck) {
      for (const target of targets) {
        parseReference(target);
        if (normalizeImageName(target) === "") throw new Error(`invalid reference ${JSON.stringify(target)}`);
      }
    }
    await using session = await globals.connect();
    const { client } = session;
    await withLease(client.leases, session.context, async (context) => {
      const image = await client.images.get(context, source);
      for (const name of targets) {
        const tagged = { name, target: image.target, labels: image.labels };
        const local = async (): Promise<void> => {
          try {
            await client.images.create(context, tagged);
          } catch (error) {
            if (!isErrorClass(error, "already-exists") || !flags.force)
              throw new Error(messageOf(error), { cause: error });
            await client.images.update(context, tagged, ["target"]);
          }
        };
        // The service moves names that are there without asking, which only --force is for.
        if (flags.local || !flags.force) await local();
        else {
          const store = imageStore(name, { labels: image.labels });
          await byTransferOr(
            async () => client.transfer.transfer(context, imageStore(source), { destination: store }),
            local,
          );
        }
        io.stdout.write(`${name}\n`);
      }
    });
    return 0;
  },
});
