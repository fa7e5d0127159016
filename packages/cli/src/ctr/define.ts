import { classified } from "@stevedore/base";
import type { Command } from "../kit/command.ts";
import { defineCommand } from "../kit/program.ts";
import type { CtrGlobals } from "./globals.ts";

/** Makes a command of ctr. */
export const ctrCommand = defineCommand<CtrGlobals>();

/**
 * A command that this version does not have yet. It says so, and what to do.
 * `needs` names what it waits for: "the EROFS snapshotter", "the CNI client", ...
 */
export function missingCommand(path: string, needs: string): Command<CtrGlobals> {
  return {
    kind: "command",
    flags: {},
    description: `Not in this version: it waits for ${needs}.`,
    run: async (call) => {
      if (call.argv.includes("--help") || call.argv.includes("-h")) {
        call.showHelp(call.io.stdout);
        return 0;
      }
      throw classified("not-implemented", `${path} is not in this version, it waits for ${needs}: not implemented`);
    },
  };
}
