/** What the heap holds, by class of object. The engine does not record where an object was made. */
import { encodeProfile } from "./pprof.ts";

export interface HeapClass {
  readonly name: string;
  readonly objects: number;
  /** Bytes, including memory outside the heap that the objects own. */
  readonly bytes: number;
}

/** Numbers that describe one object in a snapshot: id, size, class, flags. */
const NODE_FIELDS = 4;

/** Counts the objects on the heap. Stops the loop for tens of milliseconds on a daemon's heap. */
export function heapClasses(): HeapClass[] {
  const { nodes, nodeClassNames } = Bun.generateHeapSnapshot();
  const totals = new Map<string, { objects: number; bytes: number }>();
  for (let at = 0; at + NODE_FIELDS <= nodes.length; at += NODE_FIELDS) {
    const name = nodeClassNames[nodes[at + 2] ?? -1] ?? "(unknown)";
    const total = totals.get(name) ?? { objects: 0, bytes: 0 };
    total.objects += 1;
    total.bytes += nodes[at + 1] ?? 0;
    totals.set(name, total);
  }
  return [...totals].map(([name, { objects, bytes }]) => ({ name, objects, bytes })).sort((a, b) => b.bytes - a.bytes);
}

/** A gzipped pprof profile of the live heap. */
export async function takeHeapProfile(): Promise<Uint8Array> {
  const takenAt = Date.now();
  return encodeProfile({
    kinds: [
      { type: "inuse_objects", unit: "count" },
      { type: "inuse_space", unit: "bytes" },
    ],
    shownKind: "inuse_space",
    samples: heapClasses().map(({ name, objects, bytes }) => ({
      stack: [{ name, file: "", line: 0 }],
      values: [objects, bytes],
    })),
    takenAt,
    period: { kind: { type: "space", unit: "bytes" }, value: 1 },
  });
}

/** The same as text, for a reader without a viewer. */
export function heapText(): string {
  const classes = heapClasses();
  const objects = classes.reduce((sum, each) => sum + each.objects, 0);
  const bytes = classes.reduce((sum, each) => sum + each.bytes, 0);
  const lines = classes.map((each) => `${each.objects}: ${each.bytes} @ ${each.name}`);
  return `heap profile: ${objects}: ${bytes} [objects: bytes @ class]\n${lines.join("\n")}\n`;
}
