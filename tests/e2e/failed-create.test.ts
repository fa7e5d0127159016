// A create that fails, and the signal that other daemons reload on.
import { expect } from "bun:test";
import { row } from "../harness/row.ts";

row(
  "F25",
  "run of a program that is not there: one line on stderr",
  { casts: ["peer", "ours", "our-ctr"], covers: ["flag:ctr run --rm"] },
  async (t) => {
    const ran = await t.ctr("run", "--rm", await t.image(), t.id("n"), "/no/such");
    expect(ran.code).toBe(1);
    expect(ran.stdout).toBe("");
    expect(ran.stderr.trimEnd().split("\n")).toHaveLength(1);
    expect(ran.stderr).toMatch(
      /^ctr: failed to create shim task: OCI runtime create failed: .*"\/no\/such".*: unknown\n$/,
    );
  },
);

row("A13", "SIGHUP ends the daemon: there is no reload", { casts: ["peer", "ours"], ownDaemon: true }, async (t) => {
  expect(await t.daemon.stop("SIGHUP")).toBe(129);
  await t.daemon.launch();
  expect((await t.ctr("version")).code).toBe(0);
});
