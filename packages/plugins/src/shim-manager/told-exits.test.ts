import { expect, test } from "bun:test";
import type { ExitRecord } from "@stevedore/core";
import { ToldExits } from "./told-exits.ts";

const exit = (id: string, pid: number): ExitRecord => ({ id, pid, exitStatus: 0, exitedAt: new Date(0) });

test("a process that was told and then deleted is forgotten", () => {
  const told = new ToldExits();
  told.tell(exit("e", 7));
  expect(told.get("e")?.pid).toBe(7);
  told.forget("e", 7);
  expect(told.size).toBe(0);
});

test("an exit that is told after the delete is not kept, and is not the next process' of that id", () => {
  const told = new ToldExits();
  told.forget("e", 7);
  told.tell(exit("e", 7));
  expect(told.size).toBe(0);
  told.forget("e", 8);
  told.tell(exit("e", 9));
  told.tell(exit("e", 8));
  expect(told.get("e")?.pid).toBe(9);
});

test("one that never ran is waited for no event, and events that never come are not waited for without end", () => {
  const told = new ToldExits();
  told.forget("e", 0);
  expect(told.size).toBe(0);
  for (let pid = 1; pid <= 5_000; pid += 1) told.forget(`e${pid}`, pid);
  expect(told.size).toBe(1_000);
});
