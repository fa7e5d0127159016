import { isErrorClass } from "@stevedore/base";
import { defaultMatcher } from "@stevedore/oci/platform";
import { installImage } from "@stevedore/sdk/local/install";
import { boolFlag, stringFlag } from "../kit/flags.ts";
import { ctrCommand } from "./define.ts";

/** Where packages go when neither the flag nor the daemon says. */
const DEFAULT_PATH = "/opt/containerd";

/** `ctr install` */
export const command = ctrCommand({
  argsUsage: "[flags] <ref>",
  description: "install a new package",
  flags: {
    libs: boolFlag("libs", "install libs from the image", { aliases: ["l"] }),
    replace: boolFlag("replace", "replace any binaries or libs in the opt directory", { aliases: ["r"] }),
    path: stringFlag("path", "set an optional install path other than the managed opt directory"),
  },
  action: async ({ args, flags, globals }) => {
    const [ref] = args;
    if (ref === undefined || ref === "") throw new Error("please provide an image reference to install");
    await using session = await globals.connect();
    const { client, context } = session;
    const { target } = await client.images.get(context, ref);
    let path = flags.path;
    if (path === "") {
      const plugins = await client.introspection.plugins(context, ["id==opt"]).catch((error: unknown) => {
        if (isErrorClass(error, "not-implemented")) return [];
        throw error;
      });
      path = plugins[0]?.exports["path"] ?? DEFAULT_PATH;
    }
    await installImage(client, context, {
      target,
      matcher: defaultMatcher(),
      path,
      libs: flags.libs,
      replace: flags.replace,
    });
    return 0;
  },
});
