/** Runs the shim from source: `bun packages/shim/src/bin.ts -namespace …`. The built binary dispatches by name instead. */
import { runShim } from "./main.ts";

void runShim(process.argv.slice(2)).then((code) => process.exit(code));
