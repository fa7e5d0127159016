import { runUnpackWorker } from "./index.ts";

/** The worker as a program of its own, for running from the sources. */
void runUnpackWorker().then((status) => process.exit(status));
