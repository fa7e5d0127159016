import { defineCommand } from "../kit/program.ts";
import type { CtrGlobals } from "./globals.ts";

/** Makes a command of ctr. */
export const ctrCommand = defineCommand<CtrGlobals>();
