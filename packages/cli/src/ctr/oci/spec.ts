import { defaultSpec } from "@stevedore/sdk/spec/default-spec";
import { stringFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";

/** `ctr oci spec` */
export const command = ctrCommand({
  flags: {
    platform: stringFlag("platform", "platform of the spec to print (Examples: 'linux/arm64', 'windows/amd64')"),
  },
  action: async ({ flags, globals, io }) => {
    const os = flags.platform.split("/")[0];
    if (os !== undefined && os !== "" && os !== "linux") {
      throw new Error(
        `no default spec for platform ${JSON.stringify(flags.platform)}, only for linux: not implemented`,
      );
    }
    io.stdout.write(`${JSON.stringify(defaultSpec({ id: "", namespace: globals.namespace }), null, 4)}\n`);
    return 0;
  },
});
