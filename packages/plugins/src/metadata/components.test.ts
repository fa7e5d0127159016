import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { components } from "./components.ts";

function run(edges: ReadonlyMap<string, readonly string[]>): (readonly string[])[] {
  const steps = components(new Set(edges.keys()), (node) => edges.get(node) ?? []);
  for (;;) {
    const step = steps.next();
    if (step.done === true) return step.value;
  }
}

describe("components()", () => {
  test("puts what refers after what it refers to, and circles together", () => {
    const edges = new Map([
      ["a", ["b", "outside"]],
      ["b", ["c"]],
      ["c", ["b", "d"]],
      ["d", []],
    ]);
    expect(run(edges).map((group) => group.toSorted())).toEqual([["d"], ["b", "c"], ["a"]]);
  });

  test("takes a chain of any length", () => {
    const edges = new Map(Array.from({ length: 50_000 }, (_, i) => [`${i}`, [`${i + 1}`]] as const));
    expect(run(edges)).toHaveLength(50_000);
  });

  test("every node is in one group, and edges never lead to a later group", () => {
    const graph = fc.array(fc.array(fc.nat(11), { maxLength: 4 }), { maxLength: 12 });
    fc.assert(
      fc.property(graph, (lists) => {
        const edges = new Map<string, readonly string[]>(
          lists.map((list, i) => [String(i), list.map(String)] as const),
        );
        const groups = run(edges);
        const place = new Map(groups.flatMap((group, i) => group.map((node) => [node, i] as const)));
        expect(groups.flat().toSorted()).toEqual([...edges.keys()].toSorted());
        for (const [from, targets] of edges) {
          for (const to of targets.filter((each) => edges.has(each))) {
            expect(place.get(to) ?? 0).toBeLessThanOrEqual(place.get(from) ?? 0);
          }
        }
      }),
    );
  });
});
