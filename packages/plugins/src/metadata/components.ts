interface Frame {
  readonly node: string;
  readonly next: Iterator<string>;
}

/**
 * Groups of nodes that reach each other, in an order in which every group comes after all groups it refers to (Tarjan's
 * strongly connected components, without recursion: chains may be long). Edges out of `nodes` do not count. Yields
 * after each node.
 */
export function* components(
  nodes: ReadonlySet<string>,
  edgesOf: (node: string) => readonly string[],
): Generator<void, (readonly string[])[]> {
  const indexes = new Map<string, number>();
  const lowest = new Map<string, number>();
  const open: string[] = [];
  const isOpen = new Set<string>();
  const groups: (readonly string[])[] = [];
  const frames: Frame[] = [];

  const enter = (node: string): void => {
    const index = indexes.size;
    indexes.set(node, index);
    lowest.set(node, index);
    open.push(node);
    isOpen.add(node);
    frames.push({
      node,
      next: edgesOf(node)
        .filter((each) => nodes.has(each))
        .values(),
    });
  };
  const lower = (node: string, index: number): void => {
    if (index < (lowest.get(node) ?? index)) lowest.set(node, index);
  };
  const close = (node: string): void => {
    if (lowest.get(node) !== indexes.get(node)) return;
    const group = open.splice(open.lastIndexOf(node));
    for (const each of group) isOpen.delete(each);
    groups.push(group);
  };

  for (const root of nodes) {
    if (indexes.has(root)) continue;
    enter(root);
    for (let frame = frames.at(-1); frame !== undefined; frame = frames.at(-1)) {
      const step = frame.next.next();
      if (step.done === true) {
        frames.pop();
        const parent = frames.at(-1);
        if (parent !== undefined) lower(parent.node, lowest.get(frame.node) ?? 0);
        close(frame.node);
        yield;
        continue;
      }
      const index = indexes.get(step.value);
      if (index === undefined) enter(step.value);
      else if (isOpen.has(step.value)) lower(frame.node, index);
    }
  }
  return groups;
}
