import { isErrorClass } from "@stevedore/base";
import { unmountSnapshot } from "@stevedore/sdk/local/mounts";
import { boolFlag, stringFlag, stringsFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";

/** `ctr images unmount` */
export const command = ctrCommand({
  argsUsage: "[flags] <target>",
  description: "Unmount the image rootfs from the specified path.",
  flags: {
    snapshotter: stringFlag("snapshotter", "snapshotter name. Empty value stands for the default value.", {
      env: ["CONTAINERD_SNAPSHOTTER"],
    }),
    // containerd's client takes it and makes nothing of it: there is no image at hand to attach it to.
    label: stringsFlag("label", "labels to attach to the image (without effect, as in containerd)"),
    rm: boolFlag("rm", "Remove the snapshot after a successful unmount"),
  },
  action: async ({ args, flags, globals, io }) => {
    const [target] = args;
    if (target === undefined || target === "") throw new Error("please provide a target path to unmount from");
    unmountSnapshot(target);
    if (flags.rm) {
      await using session = await globals.connect();
      const { client, context } = session;
      for (const step of [
        async () => client.leases.delete(context, target),
        async () => client.snapshotter(flags.snapshotter).remove(context, target),
      ]) {
        try {
          await step();
        } catch (error) {
          if (!isErrorClass(error, "not-found")) throw error;
        }
      }
    }
    io.stdout.write(`${target}\n`);
    return 0;
  },
});
