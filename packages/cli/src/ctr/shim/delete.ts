import { ctrCommand } from "../define.ts";
import { connectShim } from "./connect.ts";

/** `ctr shim delete` */
export const command = ctrCommand({
  flags: {},
  action: async (call) => {
    await using shim = await connectShim(call);
    const exitStatus = await shim.delete(call.args[0] ?? "");
    call.io.stdout.write(`container deleted and returned exit status ${exitStatus}\n`);
    return 0;
  },
});
