import { defaultMatcher } from "@stevedore/oci/platform";
import { unpackImage } from "@stevedore/sdk/images/unpack";
import { withLease } from "@stevedore/sdk/lease";
import { boolFlag, stringFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";
import { snapshotterName } from "./snapshotter.ts";

/** `ctr snapshots unpack` */
export const command = ctrCommand({
  argsUsage: "[flags] <digest>",
  description: "unpack applies layers from a manifest to a snapshot",
  flags: {
    syncFs: boolFlag("sync-fs", "sync the underlying filesystem containing files when unpack images, false by default"),
    snapshotter: stringFlag("snapshotter", "snapshotter name. Empty value stands for the default value.", {
      env: ["CONTAINERD_SNAPSHOTTER"],
    }),
  },
  action: async ({ args, flags, globals, io, parents }) => {
    const [digest = ""] = args;
    const { parseDigest } = await import("@stevedore/oci/digest");
    parseDigest(digest);
    const snapshotter = flags.snapshotter === "" ? snapshotterName(parents) : flags.snapshotter;
    await using session = await globals.connect();
    const { client } = session;
    const images = await client.images.list(session.context, [`target.digest==${digest}`]);
    const [image] = images;
    if (image === undefined) throw new Error("manifest not found");
    await withLease(client.leases, session.context, async (context) => {
      io.stdout.write(`unpacking ${image.name} (${digest})...`);
      const of = { target: image.target, matcher: defaultMatcher(), snapshotter, syncFs: flags.syncFs };
      const chain = await unpackImage(client, context, of);
      io.stdout.write(`done\nchain ID: ${chain}\n`);
    });
    return 0;
  },
});
