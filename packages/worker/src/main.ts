import { runUnpackWorker } from "./index.ts";

/** The worker as a program of its own, for running from the sources. */
void runUnpackWorker(process.argv.slice(2)).then((status) => process.exit(status));
