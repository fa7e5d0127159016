// Runs one command in a virtual machine of the VM lane, with this repository (read-only) at its own path:
//   bun tools/vm.ts [--systemd|--v1] bun test ./tests/e2e/run.test.ts
// What it prints comes as it is printed; the exit status is the command's. Needs `tools/apt.sh vm` and `make build` first.
import { Guest, type GuestOptions } from "../tests/harness/vm/guest.ts";
import { say } from "./project.ts";

const LIMIT_MS = 60 * 60_000;

async function main(): Promise<number> {
  const given = process.argv.slice(2).filter((word, index) => word !== "--" || index > 0);
  const cut = given.findIndex((word) => !word.startsWith("--"));
  const [flags, command] = cut < 0 ? [given, []] : [given.slice(0, cut), given.slice(cut)];
  const kind: GuestOptions["kind"] = flags.includes("--systemd") ? "systemd" : flags.includes("--v1") ? "v1" : "small";
  const unknown = flags.filter((flag) => flag !== "--systemd" && flag !== "--v1");
  if (command.length === 0 || unknown.length > 0) {
    say("usage: bun tools/vm.ts [--systemd|--v1] command [argument...]");
    return 2;
  }
  const begun = performance.now();
  await using guest = await Guest.boot({ kind });
  say(`booted in ${((performance.now() - begun) / 1000).toFixed(1)} s`);
  guest.onStream = (text) => void process.stdout.write(text);
  const ran = await guest.tool(command, { timeoutMs: LIMIT_MS });
  return ran.code;
}

process.exitCode = await main();
