/** Blobs as the client's own way of pulling and pushing shows them: a table that is drawn again, or once at the end. */
import type { TransferProgress } from "@stevedore/sdk/types";
import { formatBytes } from "../../kit/format.ts";
import type { Output } from "../../kit/output.ts";
import { LIST_TABLE, tabwrite } from "../../kit/tabwriter.ts";
import { bar, elapsedAndTotal, LINE_UP, REDRAW_MS, unwrapped } from "./transfer-screen.ts";

/** Words of the table for what a transfer tells. */
const WORDS: Readonly<Record<string, string>> = {
  complete: "done",
  "already exists": "exists",
  extracting: "done",
  extracted: "done",
};

/** Shows one pull or push. Call {@link BlobTable.finish} at its end, also when it failed. */
export class BlobTable {
  readonly #out: Output;
  readonly #image: string;
  readonly #start = performance.now();
  readonly #blobs = new Map<string, TransferProgress>();
  #resolved = false;
  #moved = 0;
  #drawnLines = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** @param image the name that is resolved first; "" where nothing is. */
  constructor(out: Output, image: string) {
    this.#out = out;
    this.#image = image;
  }

  readonly take = (progress: TransferProgress): void => {
    const { event, name } = progress;
    if (event === "fetching image content") this.#resolved = true;
    if (name === "" || progress.total === undefined) return;
    if (event === "complete") this.#moved += progress.total;
    this.#blobs.set(name, { ...progress, event: WORDS[event] ?? event });
    if (this.#out.isTerminal) this.#timer ??= setTimeout(() => this.#draw(), REDRAW_MS);
  };

  #draw(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const text = this.#text();
    this.#out.write(LINE_UP.repeat(this.#drawnLines) + (this.#out.isTerminal ? unwrapped(text) : text));
    this.#drawnLines = text.split("\n").length - 1;
  }

  #text(): string {
    const lines: string[] = [];
    if (this.#image !== "") {
      const word = this.#resolved ? "resolved" : "resolving";
      lines.push(`${this.#image}:\t${word}\t${bar(this.#resolved ? 1 : 0)}\t`);
    }
    for (const [name, { event, progress = 0, total = 0 }] of this.#blobs) {
      const isMoving = event === "downloading" || event === "uploading";
      const share = isMoving ? (total > 0 ? progress / total : 0) : event === "waiting" ? 0 : 1;
      const bytes = isMoving ? `${formatBytes(progress).slice(0, 8).padStart(8)}/${formatBytes(total)}\t` : "";
      lines.push(`${name}:\t${event}\t${bar(share)}\t${bytes}`);
    }
    lines.push(elapsedAndTotal(performance.now() - this.#start, this.#moved));
    return tabwrite(`${lines.join("\n")}\n`, LIST_TABLE);
  }

  finish(): void {
    clearTimeout(this.#timer);
    if (this.#image === "" && this.#blobs.size === 0) return;
    this.#draw();
  }
}
