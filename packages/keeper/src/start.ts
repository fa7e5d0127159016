import { runKeeper } from "./main.ts";

/** The keeper as a program of its own, for running from the sources. */
void runKeeper(process.argv.slice(2)).then((status) => process.exit(status));
