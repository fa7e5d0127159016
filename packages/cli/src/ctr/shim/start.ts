import { ctrCommand } from "../define.ts";
import { connectShim } from "./connect.ts";

/** `ctr shim start` */
export const command = ctrCommand({
  flags: {},
  action: async (call) => {
    await using shim = await connectShim(call);
    await shim.start(call.args[0] ?? "", "");
    return 0;
  },
});
