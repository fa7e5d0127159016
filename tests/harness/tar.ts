// A tar writer for test images, by hand so that hostile archives can be made too: nothing is checked or cleaned.

export type TarEntry = {
  readonly path: string;
  readonly data?: Uint8Array | string;
  /** Octal permission bits; 0644 for files, 0755 for folders. */
  readonly mode?: number;
  readonly type?: "file" | "hardlink" | "symlink" | "char" | "block" | "dir" | "fifo";
  readonly target?: string;
  readonly uid?: number;
  readonly gid?: number;
  /** Seconds since the epoch; 0 when absent, so that images are the same on every run. */
  readonly mtime?: number;
  readonly device?: readonly [major: number, minor: number];
  /** Records of a PAX header before the entry, for example `SCHILY.xattr.user.a`. */
  readonly pax?: Readonly<Record<string, string>>;
};

const TYPES = { file: "0", hardlink: "1", symlink: "2", char: "3", block: "4", dir: "5", fifo: "6" } as const;
const BLOCK = 512;

function octal(value: number, width: number): string {
  return `${value.toString(8).padStart(width - 1, "0")}\0`;
}

function header(entry: TarEntry, type: string, size: number): Uint8Array {
  const block = Buffer.alloc(BLOCK);
  block.write(entry.path, 0, 100);
  block.write(octal(entry.mode ?? (type === "5" ? 0o755 : 0o644), 8), 100);
  block.write(octal(entry.uid ?? 0, 8), 108);
  block.write(octal(entry.gid ?? 0, 8), 116);
  block.write(octal(size, 12), 124);
  block.write(octal(entry.mtime ?? 0, 12), 136);
  block.write("        ", 148);
  block.write(type, 156);
  block.write(entry.target ?? "", 157, 100);
  block.write("ustar\x0000", 257);
  const [major, minor] = entry.device ?? [0, 0];
  block.write(octal(major, 8), 329);
  block.write(octal(minor, 8), 337);
  let sum = 0;
  for (const byte of block) sum += byte;
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return block;
}

function padded(data: Uint8Array): Uint8Array[] {
  const rest = data.byteLength % BLOCK;
  return rest === 0 ? [data] : [data, new Uint8Array(BLOCK - rest)];
}

function paxRecord(key: string, value: string): string {
  const body = ` ${key}=${value}\n`;
  let length = Buffer.byteLength(body) + 1;
  while (Buffer.byteLength(body) + String(length).length !== length) length += 1;
  return `${length}${body}`;
}

/** The archive of the entries, in their order, ended as tar ends. */
export function tar(entries: readonly TarEntry[]): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = [];
  for (const entry of entries) {
    const pax: Record<string, string> = { ...entry.pax };
    if (Buffer.byteLength(entry.path) > 100) pax["path"] = entry.path;
    if (Buffer.byteLength(entry.target ?? "") > 100) pax["linkpath"] = entry.target ?? "";
    if (Object.keys(pax).length > 0) {
      const records = Buffer.from(
        Object.entries(pax)
          .map(([key, value]) => paxRecord(key, value))
          .join(""),
      );
      parts.push(header({ path: "PaxHeader" }, "x", records.byteLength), ...padded(records));
    }
    const data = typeof entry.data === "string" ? Buffer.from(entry.data) : (entry.data ?? new Uint8Array());
    parts.push(header(entry, TYPES[entry.type ?? "file"], data.byteLength), ...padded(data));
  }
  parts.push(new Uint8Array(2 * BLOCK));
  const joined = Buffer.concat(parts);
  return new Uint8Array(joined.buffer.slice(joined.byteOffset, joined.byteOffset + joined.byteLength));
}
