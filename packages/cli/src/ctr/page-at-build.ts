import { programHelp } from "../kit/help.ts";
import { CTR } from "./main.ts";

/** The page of `ctr --help` as the bundler renders it (a macro of Bun), with `version` where the version goes. */
export function renderPage(version: string): string {
  return programHelp({ ...CTR, version });
}
