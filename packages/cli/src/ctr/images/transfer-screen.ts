/** What a transfer tells, as `ctr` shows it: a tree that is drawn again and again on a terminal, one line an end elsewhere. */
import type { TransferProgress } from "@stevedore/sdk/types";
import { formatBytes } from "../../kit/format.ts";
import type { Output } from "../../kit/output.ts";

/** Least time between two drawings, in milliseconds: faster than an eye, slow for a terminal. */
export const REDRAW_MS = 50;

const NAME_WIDTH = 40;
/** Characters between the ends of a bar: containerd's 40 with them. */
const BAR_INSIDE = 38;
const GREEN = "\u001b[32m";
const RESET = "\u001b[0m";
/** Moves a terminal to the line above and empties it. */
export const LINE_UP = "\u001b[1A\u001b[2K";
const WRAP_OFF = "\u001b[?7l";
const WRAP_ON = "\u001b[?7h";

/** Lines that a terminal cuts at its edge: one that went on below would not be one line when it is drawn again. */
export function unwrapped(text: string): string {
  return `${WRAP_OFF}${text}${WRAP_ON}`;
}

/** Events that end something; only these are lines where nothing can be drawn over. */
const ENDS: ReadonlySet<string> = new Set([
  "saved",
  "complete",
  "already exists",
  "extracted",
  "fetching image content",
  "pushing content",
  "pushed content",
]);

interface Node {
  progress: TransferProgress;
  readonly children: Node[];
  readonly parents: string[];
}

/** Shows one transfer. Call {@link TransferScreen.finish} at its end, also when it failed. */
export class TransferScreen {
  readonly #out: Output;
  readonly #start = performance.now();
  readonly #nodes = new Map<string, Node>();
  readonly #roots: Node[] = [];
  #status = "";
  #drawnLines = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(out: Output) {
    this.#out = out;
  }

  readonly take = (progress: TransferProgress): void => {
    if (progress.name === "") this.#status = progress.event;
    else this.#place(progress);
    if (this.#out.isTerminal) this.#timer ??= setTimeout(() => this.#draw(), REDRAW_MS);
    else this.#line(progress);
  };

  #place(progress: TransferProgress): void {
    const { name, parents = [] } = progress;
    const node: Node = this.#nodes.get(name) ?? { progress, children: [], parents: [] };
    node.progress = progress;
    if (!this.#nodes.has(name)) {
      this.#nodes.set(name, node);
      if (!parents.some((parent) => this.#nodes.has(parent))) this.#roots.push(node);
    }
    for (const parent of parents) {
      const above = this.#nodes.get(parent);
      if (above === undefined || above === node || node.parents.includes(parent)) continue;
      node.parents.push(parent);
      above.children.push(node);
    }
  }

  #line({ event, name }: TransferProgress): void {
    if (name === "") {
      const isEnd = event.startsWith("Completed");
      if (!isEnd) this.#out.write(`${event}\n`);
    } else if (ENDS.has(event)) this.#out.write(`${displayName(name)}\t${event}\n`);
  }

  #draw(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const text = this.#text();
    this.#out.write(LINE_UP.repeat(this.#drawnLines) + unwrapped(text));
    this.#drawnLines = text.split("\n").length - 1;
  }

  #text(): string {
    const lines: string[] = [];
    const total = drawNodes(this.#roots, { prefix: "", isRoot: true, lines });
    for (const root of this.#roots) {
      const descriptor = descriptorOf(root);
      if (descriptor !== undefined) lines.push(`${descriptor.mediaType} ${descriptor.digest}`);
    }
    lines.push(this.#summary(total));
    return `${lines.join("\n")}\n`;
  }

  #summary(total: number): string {
    return `${this.#status}\t${elapsedAndTotal(performance.now() - this.#start, total)}`;
  }

  finish(): void {
    clearTimeout(this.#timer);
    if (this.#nodes.size === 0) return;
    if (this.#out.isTerminal) return this.#draw();
    if (this.#status.startsWith("Completed")) this.#out.write(`${this.#summary(bytesOf(this.#roots))}\n`);
  }
}

/** How long it took, how much it was, and how fast that was; cells of a table. */
export function elapsedAndTotal(elapsedMs: number, total: number): string {
  const seconds = elapsedMs / 1000;
  const bytes = formatBytes(total).slice(0, 6).padStart(7);
  const rate = formatBytes(total / Math.max(seconds, 0.001));
  return `elapsed: ${seconds.toFixed(1).padEnd(4)}s\ttotal: ${bytes}\t(${rate}/s)\t`;
}

function descriptorOf(node: Node): TransferProgress["descriptor"] {
  if (node.progress.descriptor !== undefined) return node.progress.descriptor;
  for (const child of node.children) {
    const found = descriptorOf(child);
    if (found !== undefined) return found;
  }
  return undefined;
}

function bytesOf(nodes: readonly Node[]): number {
  return drawNodes(nodes, { prefix: "", isRoot: true, lines: [] });
}

/** Draws nodes and what is below them, and returns the bytes of all. */
function drawNodes(
  nodes: readonly Node[],
  at: { readonly prefix: string; readonly isRoot: boolean; readonly lines: string[] },
): number {
  let total = 0;
  for (const [index, node] of nodes.entries()) {
    const isLast = index + 1 === nodes.length;
    const branch = at.isRoot ? "" : isLast ? "└──" : "├──";
    const below = at.isRoot ? "" : isLast ? "   " : "│  ";
    at.lines.push(drawNode(at.prefix + branch, node.progress));
    total += node.progress.progress ?? 0;
    total += drawNodes(node.children, { prefix: at.prefix + below, isRoot: false, lines: at.lines });
  }
  return total;
}

function drawNode(prefix: string, { name, event, progress = 0, total = 0 }: TransferProgress): string {
  const label = (prefix + displayName(name)).slice(0, NAME_WIDTH).padEnd(NAME_WIDTH);
  switch (event) {
    case "downloading":
    case "uploading":
    case "extracting": {
      const done = `${formatBytes(progress).slice(0, 8).padStart(8)}/${formatBytes(total)}`;
      return `${label}\t${event.padEnd(11)}\t${bar(total > 0 ? progress / total : 0)}\t${done}\t`;
    }
    case "resolving":
    case "waiting":
      return `${label}\t${event.padEnd(11)}\t${bar(0)}\t`;
    case "complete":
    case "extracted":
      return `${label}\t${event.padEnd(11)}\t${bar(1)}\t`;
    default:
      return `${label}\t${event}\t`;
  }
}

/** A bar of 40 characters, green as far as `share` (0 to 1) goes. */
export function bar(share: number): string {
  const filled = Math.max(0, Math.min(BAR_INSIDE, Math.floor(share * BAR_INSIDE)));
  return `|${GREEN}${"+".repeat(filled)}${RESET}${"-".repeat(BAR_INSIDE - filled)}|`;
}

/** `index-sha256:f35d…` as `index (f35df7dea9a6)`. */
function displayName(name: string): string {
  return name
    .split("-")
    .map((part) => (/^sha256:[0-9a-f]{64}$/.test(part) ? `(${part.slice(7, 19)})` : part))
    .join(" ");
}
