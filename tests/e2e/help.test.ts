// Every command of the surface has its page, and the page lists every flag of the surface. By source: containerd 2.3.4's command lines.
// @covers flag:ctr * --help, flag:ctr --help, flag:containerd * --help, flag:containerd --help
// @covers flag:containerd-stress --help, flag:containerd-stress density --help
// @covers cmd:ctr, cmd:ctr plugins, cmd:ctr containers, cmd:ctr content, cmd:ctr content prune, cmd:ctr images, cmd:ctr leases, cmd:ctr namespaces
// @covers cmd:ctr pprof, cmd:ctr snapshots, cmd:ctr tasks, cmd:ctr oci, cmd:ctr shim, cmd:ctr shim pprof, cmd:containerd, cmd:containerd config
import { expect, test } from "bun:test";
import { isString, readJson, recordOf } from "../../tools/json.ts";
import { waitsFor } from "../coverage/check.ts";
import { program } from "../harness/daemon.ts";
import { exec } from "../harness/process.ts";

const waits = await readJson("tests/coverage/waits.json", recordOf(isString));

for (const [row, name] of [
  ["G03", "ctr"],
  ["A01", "containerd"],
  ["A20", "containerd-stress"],
] as const) {
  const commands = await readJson(`tests/coverage/surface-${name}.json`, recordOf(recordOf(isString)));
  for (const [command, all] of Object.entries(commands)) {
    if (waitsFor(waits, `cmd:${command}`) !== undefined) continue;
    const flags = Object.keys(all).filter((flag) => waitsFor(waits, `flag:${command} ${flag}`) === undefined);
    test(`${row}: ${command} --help lists its flags [ours]`, async () => {
      const ran = await exec([program("ours", name), ...command.split(" ").slice(1), "--help"]);
      expect(ran).toMatchObject({ code: 0, stderr: "" });
      expect(ran.stdout).toContain(command);
      for (const flag of flags) expect(ran.stdout).toMatch(new RegExp(`${flag}\\b`));
    });
  }
}
