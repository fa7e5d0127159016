import { intFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";
import { apiVersion, connectShim } from "./connect.ts";

/** `ctr shim shutdown` */
export const command = ctrCommand({
  flags: {
    apiVersion: intFlag("api-version", "shim API version {2,3}", { initial: 3 }),
  },
  action: async (call) => {
    const version = apiVersion(call.flags.apiVersion);
    await using shim = await connectShim(call);
    await shim.shutdown(version);
    return 0;
  },
});
