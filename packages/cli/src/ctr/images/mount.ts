import { isErrorClass } from "@stevedore/base";
import { onlyStrict, parsePlatform } from "@stevedore/oci/platform";
import { unpackImage } from "@stevedore/sdk/images/unpack";
import { mountSnapshot } from "@stevedore/sdk/local/mounts";
import { boolFlag, durationFlag, stringFlag, stringsFlag } from "../../kit/flags.ts";
import { formatTime } from "../../kit/format.ts";
import { ctrCommand } from "../define.ts";
import { parseLabelArgs } from "../labels.ts";

const SNAPSHOTTER = {
  snapshotter: stringFlag("snapshotter", "snapshotter name. Empty value stands for the default value.", {
    env: ["CONTAINERD_SNAPSHOTTER"],
  }),
};

/** `ctr images mount` */
export const command = ctrCommand({
  argsUsage: "[flags] <ref> [<target>]",
  description: `Mount an image rootfs to a specified path.

When you are done, use the unmount command.`,
  flags: {
    ...SNAPSHOTTER,
    label: stringsFlag("label", "labels to attach to the image"),
    rw: boolFlag("rw", "Enable write support on the mount"),
    platform: stringFlag("platform", "Mount the image for the specified platform", { initial: "linux/amd64" }),
    syncFs: boolFlag(
      "sync-fs",
      "Synchronize the underlying filesystem containing files when unpack images, false by default",
    ),
    expiration: durationFlag("expiration", "expiration of the snapshot lease (0 value will not expire)", {
      aliases: ["x"],
      initialMs: 3_600_000,
    }),
  },
  action: async ({ args, flags, globals, io }) => {
    const [ref, target] = args;
    if (ref === undefined || ref === "") throw new Error("please provide an image reference to mount");
    if (target === undefined || target === "") throw new Error("please provide a target path to mount to");
    await using session = await globals.connect();
    const { client } = session;
    // The lease bears the target's name, so that unmount finds it, and outlives this command.
    const labels =
      flags.expiration === 0 ? {} : { "containerd.io/gc.expire": formatTime(new Date(Date.now() + flags.expiration)) };
    try {
      await client.leases.create(session.context, { id: target, labels });
    } catch (error) {
      if (!isErrorClass(error, "already-exists")) throw error;
    }
    const context = { ...session.context, lease: target };
    const image = await client.images.get(context, ref);
    const chain = await unpackImage(client, context, {
      target: image.target,
      matcher: onlyStrict(parsePlatform(flags.platform)),
      snapshotter: flags.snapshotter,
      syncFs: flags.syncFs,
    });
    const snapshotter = client.snapshotter(flags.snapshotter);
    const options = { parent: chain, labels: parseLabelArgs(flags.label) };
    const mounts = flags.rw
      ? await snapshotter.prepare(context, target, options)
      : await snapshotter.view(context, target, options);
    try {
      await mountSnapshot(mounts, target);
    } catch (error) {
      await snapshotter.remove(context, target).catch(() => undefined);
      throw error;
    }
    io.stdout.write(`${chain}\n${target}\n`);
    return 0;
  },
});
