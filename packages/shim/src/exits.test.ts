import { expect, test } from "bun:test";
import type { KeptExit } from "@stevedore/keeper/protocol";
import { Deposits } from "./deposits.ts";
import { nameOf, ShimExits } from "./exits.ts";

class KeeperOfTests extends Deposits {
  tell: (exit: KeptExit | undefined) => void = () => undefined;

  override watch(): Promise<KeptExit | undefined> {
    return new Promise((resolve) => {
      this.tell = resolve;
    });
  }
}

test("an orphan's end is what the keeper tells, after however many looks at it", async () => {
  const keeper = new KeeperOfTests("", "n");
  const exits = new ShimExits(keeper);
  await using child = Bun.spawn(["sleep", "100"]);
  const name = nameOf(child.pid);
  if (name === undefined) throw new Error("no such process");
  const end = exits.watchOrphan(name, -1);
  await Bun.sleep(500);
  keeper.tell({ ...name, code: 6, at: 5_000 });
  expect(await end).toMatchObject({ ...name, status: 6, source: "keeper", exitedAt: new Date(5_000) });
});

test("an orphan that nobody saw end is told as unknown, at once when the keeper has said that it knows nothing", async () => {
  const keeper = new KeeperOfTests("", "n");
  const exits = new ShimExits(keeper);
  const child = Bun.spawn(["sleep", "100"]);
  const name = nameOf(child.pid);
  if (name === undefined) throw new Error("no such process");
  const end = exits.watchOrphan(name, -1);
  keeper.tell(undefined);
  child.kill("SIGKILL");
  await child.exited;
  expect(await end).toMatchObject({ ...name, status: 255, source: "unknown" });
});

test("an orphan that ended and that nobody reaps is told as ended", async () => {
  const exits = new ShimExits(new KeeperOfTests("", "n"));
  // Its parent goes on without looking after it.
  await using parent = Bun.spawn(["sh", "-c", "sh -c 'echo $$; exec sleep 0.1' & exec sleep 100"], { stdout: "pipe" });
  const { value } = await parent.stdout.getReader().read();
  const name = nameOf(Number(Buffer.from(value ?? []).toString()));
  if (name === undefined) throw new Error("no such process");
  expect(await exits.watchOrphan(name, -1)).toMatchObject({ ...name, status: 255, source: "unknown" });
});
