import { deleteSandbox } from "@stevedore/sdk/sandbox";
import type { Sandbox } from "@stevedore/sdk/types";
import { boolFlag } from "../../kit/flags.ts";
import { logLine } from "../../kit/log-line.ts";
import { ctrCommand } from "../define.ts";

/** `ctr sandboxes remove`. As the peer's, it says what fails and goes on, and its exit code tells nothing of that. */
export const command = ctrCommand({
  argsUsage: "<id> [<id>, ...]",
  flags: { force: boolFlag("force", "ignore shutdown errors when removing sandbox", { aliases: ["f"] }) },
  action: async ({ args, flags, globals, io }) => {
    await using session = await globals.connect();
    const { client, context } = session;
    for (const id of args) {
      const failed = (doing: string, error: unknown): void => {
        io.stderr.write(logLine("error", `failed to ${doing} sandbox ${id}`, error));
      };
      let sandbox: Sandbox;
      try {
        sandbox = await client.sandboxes.get(context, id);
      } catch (error) {
        failed("load", error);
        continue;
      }
      try {
        await client.sandboxController(sandbox.sandboxer).stop(context, id, { timeoutSecs: 0 });
      } catch (error) {
        failed("stop", error);
        if (!flags.force) continue;
      }
      try {
        await deleteSandbox(client, context, sandbox);
      } catch (error) {
        failed("shutdown", error);
        continue;
      }
      io.stderr.write(logLine("info", `deleted: ${id}`));
    }
    return 0;
  },
});
