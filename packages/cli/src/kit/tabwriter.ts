/** Tables as Go's text/tabwriter lays them out, since the peers' command lines print through it. */

export interface TabwriterOptions {
  readonly minWidth: number;
  readonly tabWidth: number;
  readonly padding: number;
  readonly padChar: string;
  /** Draw columns with `|`. */
  readonly debug?: boolean;
}

/** containerd's tables for users: `tabwriter.NewWriter(os.Stdout, 1, 8, 1, ' ', 0)`. */
export const LIST_TABLE: TabwriterOptions = { minWidth: 1, tabWidth: 8, padding: 1, padChar: " " };
/** `ctr tasks ls`, `ctr tasks ps` and plugin lists: `4, 8, 4, ' '`. */
export const WIDE_TABLE: TabwriterOptions = { minWidth: 4, tabWidth: 8, padding: 4, padChar: " " };

/**
 * Aligns tab-terminated cells. A column is a run of consecutive lines that have a tab-terminated cell at that place; the
 * text after a line's last tab belongs to no column. Cell width is the width of its text in code points.
 */
export function tabwrite(text: string, options: TabwriterOptions): string {
  const endsWithNewline = text.endsWith("\n");
  const lines = (endsWithNewline ? text.slice(0, -1) : text).split("\n").map((line) => line.split("\t"));
  const widths = lines.map((): number[] => []);
  formatColumn({ lines, widths, options }, { from: 0, to: lines.length, column: 0 });
  const out = lines.map((cells, row) =>
    cells
      .map((cell, column) => {
        const width = widths[row]?.[column];
        if (width === undefined || column === cells.length - 1) return cell;
        return pad(cell, width, options) + (options.debug === true ? "|" : "");
      })
      .join(""),
  );
  return out.join("\n") + (endsWithNewline ? "\n" : "");
}

interface Layout {
  readonly lines: readonly (readonly string[])[];
  readonly widths: number[][];
  readonly options: TabwriterOptions;
}

// Each block of consecutive lines that reach past `column` shares that column's width; inside the block the next column
// is laid out the same way.
function formatColumn(
  layout: Layout,
  range: { readonly from: number; readonly to: number; readonly column: number },
): void {
  const { lines, widths, options } = layout;
  const { column } = range;
  for (let row = range.from; row < range.to; row++) {
    if (column >= (lines[row]?.length ?? 0) - 1) continue;
    let end = row;
    let width = options.minWidth;
    for (; end < range.to; end++) {
      const cells = lines[end];
      if (cells === undefined || column >= cells.length - 1) break;
      const size = codePoints(cells[column] ?? "");
      width = Math.max(width, size + options.padding);
    }
    if (options.padChar === "\t") width = Math.ceil(width / options.tabWidth) * options.tabWidth;
    for (let line = row; line < end; line++) {
      const of = widths[line];
      if (of !== undefined) of[column] = width;
    }
    formatColumn(layout, { from: row, to: end, column: column + 1 });
    row = end - 1;
  }
}

function pad(cell: string, width: number, options: TabwriterOptions): string {
  const missing = width - codePoints(cell);
  if (missing <= 0) return cell;
  return (
    cell +
    (options.padChar === "\t" ? "\t".repeat(Math.ceil(missing / options.tabWidth)) : options.padChar.repeat(missing))
  );
}

// Go's tabwriter counts runes; a JavaScript string's length counts UTF-16 units. Iterating is too slow for the first page
// that a short-lived command prints.
function codePoints(text: string): number {
  let count = text.length;
  for (let at = 0; at + 1 < text.length; at++) {
    const unit = text.charCodeAt(at);
    if (unit >= 0xd800 && unit < 0xdc00 && (text.charCodeAt(at + 1) & 0xfc00) === 0xdc00) count--;
  }
  return count;
}
