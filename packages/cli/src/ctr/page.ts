import { VERSION } from "../version.ts";
import { renderPage } from "./page-at-build.ts" with { type: "macro" };

// The bundler runs the call and puts the text here. It does not know what the build defines, so that the version, which
// stands at the end of a line, comes in when the page is shown.
const PAGE = renderPage("@version@");

/**
 * The page of `ctr --help` without any module of its commands. Asking for help is how a user first meets a program; parsing flags and laying
 * out columns in code that runs for the first time takes as long as all the rest of it.
 */
export function ctrPage(): string {
  return PAGE.replace("@version@", VERSION.version);
}

/** Whether these arguments ask for that page, and for nothing else. */
export function asksForPage(argv: readonly string[]): boolean {
  const [first] = argv;
  return argv.length === 0 || (argv.length === 1 && (first === "--help" || first === "-h" || first === "help"));
}
