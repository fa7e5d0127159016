import { classified } from "@stevedore/base/errors";
import {
  BLOCK,
  checksums,
  FIELD,
  type Field,
  FLAG,
  type SparseRun,
  type TarHeader,
  type TarTime,
  type TarType,
  XATTR_PREFIX,
} from "./header.ts";
import { decodeName } from "./names.ts";

/** Receives an archive in order. Whatever it throws ends the parse and reaches the caller of `push`. */
export interface TarSink {
  /** An entry begins. */
  entry(header: TarHeader): void;
  /** Bytes of the current file at `offset`; borrowed: valid only during the call. Holes of sparse files are not announced. */
  data(bytes: Uint8Array, offset: number): void;
  /** All of the current entry has been seen. */
  finish(): void;
}

export interface TarLimits {
  /** Bytes of one PAX header, GNU long name or sparse map. Default 1 MiB, Go's archive/tar's limit. */
  readonly maxHeaderBytes?: number;
  /** Bytes of a name or link target. Default 4,095: what the kernel takes (PATH_MAX). */
  readonly maxNameBytes?: number;
  /** Entries. Default 8 million: inodes of a big file system. */
  readonly maxEntries?: number;
}

const DEFAULT_MAX_HEADER = 1 << 20;
const DEFAULT_MAX_NAME = 4095;
const DEFAULT_MAX_ENTRIES = 8_000_000;

/** Sparse files may name this many runs: a 1 MiB map of the shortest lines. */
const MAX_SPARSE_RUNS = 1 << 18;

type State =
  | "header"
  /** Collecting the payload of a PAX header or GNU long name. */
  | "meta"
  /** Collecting further blocks of an old GNU sparse map. */
  | "sparse-blocks"
  /** Collecting the map that PAX 1.0 puts in front of the data. */
  | "sparse-map"
  | "data"
  | "padding"
  /** After the end marker: the rest is ignored. */
  | "done";

/** What PAX and GNU headers say about the next entry. */
interface Overrides {
  pax?: Map<string, Uint8Array>;
  longName?: Uint8Array;
  longLink?: Uint8Array;
}

/**
 * A push parser for tar archives: V7, ustar, GNU (long names, base-256 numbers, sparse files) and PAX (xattrs, sub-second
 * times, sparse 0.0, 0.1 and 1.0). Synchronous and allocation-free per chunk of data. Reads what Go's archive/tar reads,
 * and gives up where that gives up, with these additions: a type 7 (contiguous) entry is a file.
 *
 * @throws invalid-argument for what is no tar archive or breaks a limit; data-loss, from `end`, for a truncated one;
 *   not-implemented for a sparse format it does not know.
 */
export class TarParser {
  readonly #sink: TarSink;
  readonly #maxHeader: number;
  readonly #maxName: number;
  readonly #maxEntries: number;
  #state: State = "header";
  /** Bytes of a block or header that a chunk's end cut. */
  readonly #carry = Buffer.alloc(BLOCK);
  #carried = 0;
  #zeroBlocks = 0;
  #entries = 0;
  #overrides: Overrides = {};
  /** Payload being collected, and which header it belongs to. */
  #meta: Buffer = Buffer.alloc(0);
  #metaFilled = 0;
  #metaFlag = 0;
  /** Bytes of the archive left of the current entry's data, and padding after them. */
  #remaining = 0;
  #padding = 0;
  /** Offset in the file of the next data byte. */
  #fileOffset = 0;
  #runs: readonly SparseRun[] | undefined;
  #run = 0;
  #pendingHeader: TarHeader | undefined;
  #sparseMap: SparseRun[] = [];
  #mapText = "";
  #mapLines = 0;
  #mapCount = -1;
  #consumed = 0;
  #name = "";

  constructor(sink: TarSink, limits: TarLimits = {}) {
    this.#sink = sink;
    this.#maxHeader = limits.maxHeaderBytes ?? DEFAULT_MAX_HEADER;
    this.#maxName = limits.maxNameBytes ?? DEFAULT_MAX_NAME;
    this.#maxEntries = limits.maxEntries ?? DEFAULT_MAX_ENTRIES;
  }

  /** Entries announced so far. */
  get entries(): number {
    return this.#entries;
  }

  /** Name of the entry last announced, for error messages. */
  get currentName(): string {
    return this.#name;
  }

  /** Feeds the next bytes, which stay the caller's. */
  push(chunk: Uint8Array): void {
    const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    let at = 0;
    while (at < bytes.length) {
      switch (this.#state) {
        case "data": {
          const n = Math.min(this.#remaining, bytes.length - at);
          this.#deliver(bytes.subarray(at, at + n));
          at += n;
          this.#remaining -= n;
          if (this.#remaining === 0) this.#endData();
          break;
        }
        case "padding": {
          const n = Math.min(this.#padding, bytes.length - at);
          at += n;
          this.#padding -= n;
          if (this.#padding === 0) this.#state = "header";
          break;
        }
        case "meta": {
          const n = Math.min(this.#meta.length - this.#metaFilled, bytes.length - at);
          bytes.copy(this.#meta, this.#metaFilled, at, at + n);
          at += n;
          this.#metaFilled += n;
          if (this.#metaFilled === this.#meta.length) this.#endMeta();
          break;
        }
        case "done":
          this.#consumed += bytes.length;
          return;
        case "header":
        case "sparse-blocks":
        case "sparse-map": {
          let block: Buffer;
          if (this.#carried === 0 && bytes.length - at >= BLOCK) {
            block = bytes.subarray(at, at + BLOCK);
            at += BLOCK;
          } else {
            const n = Math.min(BLOCK - this.#carried, bytes.length - at);
            bytes.copy(this.#carry, this.#carried, at, at + n);
            at += n;
            this.#carried += n;
            if (this.#carried < BLOCK) break;
            this.#carried = 0;
            block = this.#carry;
          }
          if (this.#state === "header") this.#header(block);
          else if (this.#state === "sparse-blocks") this.#sparseBlock(block);
          else this.#sparseMapBlock(block);
          break;
        }
        default:
          this.#state satisfies never;
      }
    }
    this.#consumed += bytes.length;
  }

  /** Says that no more bytes come. A missing end marker is fine, a cut entry is not. @throws data-loss */
  end(): void {
    const between = this.#state === "header" && this.#carried === 0 && Object.keys(this.#overrides).length === 0;
    if (this.#state === "done" || between) return;
    const where = this.#name === "" ? "" : ` in or after entry ${JSON.stringify(this.#name)}`;
    throw classified("data-loss", `read archive: unexpected EOF after ${this.#consumed} bytes${where}`);
  }

  #fail(what: string): never {
    const where = this.#name === "" ? "" : ` (after entry ${JSON.stringify(this.#name)})`;
    throw classified("invalid-argument", `read archive: invalid tar header: ${what}${where}`);
  }

  #header(block: Buffer): void {
    if (isZero(block)) {
      this.#zeroBlocks++;
      if (this.#zeroBlocks >= 2) this.#state = "done";
      return;
    }
    if (this.#zeroBlocks > 0) this.#fail("data after a zero block");
    const stored = this.#number(block, FIELD.checksum);
    const { unsigned, signed } = checksums(block);
    if (stored !== unsigned && stored !== signed) this.#fail(`checksum ${stored}, computed ${unsigned}`);
    const flag = block[FIELD.typeFlag[0]] ?? 0;
    switch (flag) {
      case FLAG.paxLocal:
      case FLAG.paxGlobal:
      case FLAG.gnuLongName:
      case FLAG.gnuLongLink: {
        const size = this.#number(block, FIELD.size);
        if (size < 0 || size > this.#maxHeader)
          this.#fail(`extended header of ${size} bytes, limit ${this.#maxHeader}`);
        this.#metaFlag = flag;
        this.#meta = Buffer.allocUnsafe(size);
        this.#metaFilled = 0;
        this.#padding = paddingOf(size);
        this.#state = "meta";
        if (size === 0) this.#endMeta();
        return;
      }
      default:
        this.#entry(block, flag);
    }
  }

  #endMeta(): void {
    const bytes = this.#meta;
    this.#meta = Buffer.alloc(0);
    this.#state = this.#padding > 0 ? "padding" : "header";
    switch (this.#metaFlag) {
      case FLAG.gnuLongName:
        this.#overrides.longName = untilNul(bytes);
        return;
      case FLAG.gnuLongLink:
        this.#overrides.longLink = untilNul(bytes);
        return;
      case FLAG.paxLocal:
        this.#overrides.pax = this.#records(bytes);
        return;
      default: {
        const pax = this.#records(bytes);
        this.#begin({ ...EMPTY_HEADER, type: "global", typeFlag: FLAG.paxGlobal, pax });
        this.#sink.finish();
      }
    }
  }

  #begin(header: TarHeader): void {
    this.#entries++;
    if (this.#entries > this.#maxEntries) this.#fail(`more than ${this.#maxEntries} entries`);
    this.#name = header.name;
    this.#sink.entry(header);
  }

  #entry(block: Buffer, flag: number): void {
    const overrides = this.#overrides;
    this.#overrides = {};
    const { pax } = overrides;
    const kind = formatOf(block);

    let nameField = text(block, FIELD.name);
    let atime: TarTime | undefined;
    let ctime: TarTime | undefined;
    if (kind === "ustar" || kind === "star") {
      const prefix = text(block, kind === "star" ? FIELD.starPrefix : FIELD.prefix);
      if (prefix.length > 0) nameField = Buffer.concat([prefix, SLASH, nameField]);
      if (kind === "star") {
        atime = { seconds: this.#number(block, FIELD.starAtime), nanoseconds: 0 };
        ctime = { seconds: this.#number(block, FIELD.starCtime), nanoseconds: 0 };
      }
    } else if (kind === "gnu") {
      atime = this.#gnuTime(block, FIELD.gnuAtime);
      ctime = this.#gnuTime(block, FIELD.gnuCtime);
    }
    const record = (key: string): Uint8Array | undefined => {
      const value = pax?.get(key);
      return value === undefined || value.length === 0 ? undefined : value;
    };
    const rawName = record("GNU.sparse.name") ?? record("path") ?? overrides.longName ?? nameField;
    const rawLink = record("linkpath") ?? overrides.longLink ?? text(block, FIELD.linkName);
    if (rawName.length > this.#maxName || rawLink.length > this.#maxName) {
      this.#fail(`name of ${Math.max(rawName.length, rawLink.length)} bytes, limit ${this.#maxName}`);
    }
    const name = decodeName(rawName);
    const type = typeOf(flag, name);
    const holdsData = type === "file" || type === "other";
    const archived = this.#integer(record("size")) ?? this.#number(block, FIELD.size);
    if (archived < 0) this.#fail(`size ${archived}`);
    const dataBytes = holdsData ? archived : 0;
    const xattrs = pax === undefined ? undefined : xattrsOf(pax);
    const device = type === "char" || type === "block";
    const header: TarHeader = {
      type,
      typeFlag: flag,
      name,
      linkName: decodeName(rawLink),
      mode: this.#number(block, FIELD.mode) & 0o7777,
      uid: this.#integer(record("uid")) ?? this.#number(block, FIELD.uid),
      gid: this.#integer(record("gid")) ?? this.#number(block, FIELD.gid),
      size: dataBytes,
      mtime: this.#time(record("mtime")) ?? { seconds: this.#number(block, FIELD.mtime), nanoseconds: 0 },
      ...optionalTime("atime", this.#time(record("atime")) ?? atime),
      ...optionalTime("ctime", this.#time(record("ctime")) ?? ctime),
      userName: decodeName(record("uname") ?? (kind === "v7" ? NOTHING : text(block, FIELD.userName))),
      groupName: decodeName(record("gname") ?? (kind === "v7" ? NOTHING : text(block, FIELD.groupName))),
      devMajor: device && kind !== "v7" ? this.#number(block, FIELD.devMajor) : 0,
      devMinor: device && kind !== "v7" ? this.#number(block, FIELD.devMinor) : 0,
      ...(xattrs === undefined ? {} : { xattrs }),
      ...(pax === undefined ? {} : { pax }),
    };
    this.#padding = paddingOf(dataBytes);
    this.#remaining = dataBytes;
    this.#fileOffset = 0;
    this.#runs = undefined;
    this.#run = 0;
    if (flag === FLAG.gnuSparse) {
      this.#oldSparse(block, header);
      return;
    }
    if (pax !== undefined && type === "file" && this.#paxSparse(pax, header)) return;
    this.#begin(header);
    this.#startData();
  }

  #startData(): void {
    if (this.#remaining > 0) this.#state = "data";
    else this.#endData();
  }

  #endData(): void {
    this.#runs = undefined;
    this.#state = this.#padding > 0 ? "padding" : "header";
    this.#sink.finish();
  }

  #deliver(bytes: Buffer): void {
    const runs = this.#runs;
    if (runs === undefined) {
      this.#sink.data(bytes, this.#fileOffset);
      this.#fileOffset += bytes.length;
      return;
    }
    for (let at = 0; at < bytes.length; ) {
      const run = runs[this.#run];
      if (run === undefined) this.#fail("sparse file holds more data than its map");
      const into = this.#fileOffset;
      const n = Math.min(run.length - into, bytes.length - at);
      if (n > 0) this.#sink.data(bytes.subarray(at, at + n), run.offset + into);
      at += n;
      this.#fileOffset += n;
      if (this.#fileOffset === run.length) {
        this.#run++;
        this.#fileOffset = 0;
      }
    }
  }

  // Sparse files: see "Storing Sparse Files" in GNU tar's manual.

  #oldSparse(block: Buffer, header: TarHeader): void {
    if (formatOf(block) !== "gnu") this.#fail("old GNU sparse entry in another format");
    const realSize = this.#number(block, FIELD.gnuRealSize);
    this.#pendingHeader = { ...header, size: realSize };
    this.#sparseMap = [];
    const more = this.#sparseEntries(block, FIELD.gnuSparse[0], 4);
    if (more && block[FIELD.gnuExtended[0]] !== 0) this.#state = "sparse-blocks";
    else this.#beginSparse();
  }

  #sparseBlock(block: Buffer): void {
    const more = this.#sparseEntries(block, 0, 21);
    if (!more || block[504] === 0) this.#beginSparse();
  }

  /** Reads up to `count` map entries; false when the list ended inside. */
  #sparseEntries(block: Buffer, start: number, count: number): boolean {
    for (let i = 0; i < count; i++) {
      const at = start + i * 24;
      if (block[at] === 0) return false;
      this.#addRun(this.#number(block, [at, 12]), this.#number(block, [at + 12, 12]));
    }
    return true;
  }

  #addRun(offset: number, length: number): void {
    if (this.#sparseMap.length >= MAX_SPARSE_RUNS) this.#fail("sparse map too long");
    this.#sparseMap.push({ offset, length });
  }

  #paxSparse(pax: ReadonlyMap<string, Uint8Array>, header: TarHeader): boolean {
    const major = latin1(pax.get("GNU.sparse.major"));
    const minor = latin1(pax.get("GNU.sparse.minor"));
    const size = this.#integer(pax.get("GNU.sparse.realsize")) ?? this.#integer(pax.get("GNU.sparse.size"));
    const map = pax.get("GNU.sparse.map");
    if (major === undefined && minor === undefined && map === undefined) return false;
    const version = major === undefined ? "0.1" : `${major}.${minor ?? ""}`;
    if (version === "1.0") {
      if (size === undefined) this.#fail("sparse file without its real size");
      this.#pendingHeader = { ...header, size };
      this.#sparseMap = [];
      this.#mapText = "";
      this.#mapLines = 0;
      this.#mapCount = -1;
      this.#state = "sparse-map";
      return true;
    }
    if (version !== "0.0" && version !== "0.1") {
      throw classified(
        "not-implemented",
        `read archive: entry ${JSON.stringify(header.name)}: sparse format ${version}: not implemented`,
      );
    }
    if (map === undefined) return false;
    if (size === undefined) this.#fail("sparse file without its real size");
    const numbers = (latin1(map) ?? "").split(",");
    if (numbers.length % 2 !== 0) this.#fail("sparse map with an odd count");
    this.#pendingHeader = { ...header, size };
    this.#sparseMap = [];
    for (let i = 0; i < numbers.length; i += 2) {
      this.#addRun(this.#decimal(numbers[i] ?? ""), this.#decimal(numbers[i + 1] ?? ""));
    }
    this.#beginSparse();
    return true;
  }

  #sparseMapBlock(block: Buffer): void {
    this.#remaining -= BLOCK;
    if (this.#remaining < 0) this.#fail("sparse map longer than its entry");
    const text = block.toString("latin1");
    this.#mapText += text;
    if (this.#mapText.length > this.#maxHeader) this.#fail("sparse map too long");
    for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) this.#mapLines++;
    if (this.#mapLines === 0) return;
    if (this.#mapCount < 0) {
      this.#mapCount = this.#decimal(this.#mapText.slice(0, this.#mapText.indexOf("\n")));
      if (this.#mapCount > MAX_SPARSE_RUNS) this.#fail("sparse map too long");
    }
    const count = this.#mapCount;
    if (this.#mapLines < 1 + count * 2) return; // the last line may still grow
    const lines = this.#mapText.split("\n");
    for (let i = 0; i < count; i++) {
      this.#addRun(this.#decimal(lines[1 + i * 2] ?? ""), this.#decimal(lines[2 + i * 2] ?? ""));
    }
    this.#mapText = "";
    this.#beginSparse();
  }

  #beginSparse(): void {
    const header = this.#pendingHeader;
    if (header === undefined) this.#fail("sparse map without an entry");
    this.#pendingHeader = undefined;
    let end = 0;
    let total = 0;
    const runs: SparseRun[] = [];
    for (const run of this.#sparseMap) {
      const runEnd = run.offset + run.length;
      if (run.offset < end || run.length < 0 || runEnd > header.size || !Number.isSafeInteger(runEnd)) {
        this.#fail("sparse map out of order or beyond the file");
      }
      end = runEnd;
      total += run.length;
      if (run.length > 0) runs.push(run);
    }
    if (total !== this.#remaining) this.#fail(`sparse map of ${total} bytes for ${this.#remaining} bytes of data`);
    this.#sparseMap = [];
    this.#runs = runs;
    this.#begin({ ...header, sparse: runs });
    this.#startData();
  }

  // Numbers, times, records.

  /** Octal with leading and trailing spaces and NULs, or base-256 when the top bit is set. */
  #number(block: Buffer, [start, length]: Field | readonly [number, number]): number {
    const first = block[start] ?? 0;
    if ((first & 0x80) !== 0) return this.#base256(block, start, length);
    let value = 0;
    let seen = false;
    for (let i = start; i < start + length; i++) {
      const byte = block[i] ?? 0;
      if (byte >= 0x30 && byte <= 0x37) {
        value = value * 8 + (byte - 0x30);
        seen = true;
      } else if (byte === 0x20 || byte === 0) {
        if (!seen) continue;
        for (let rest = i; rest < start + length; rest++) {
          const tail = block[rest] ?? 0;
          if (tail === 0) break;
          if (tail !== 0x20) this.#fail(`number with trailing bytes at ${start}`);
        }
        break;
      } else this.#fail(`byte ${byte} in a number at ${start}`);
    }
    return value;
  }

  #base256(block: Buffer, start: number, length: number): number {
    const negative = ((block[start] ?? 0) & 0x40) !== 0;
    let value = 0n;
    for (let i = 0; i < length; i++) {
      let byte = block[start + i] ?? 0;
      if (i === 0) byte = negative ? byte | 0x80 : byte & 0x7f;
      value = (value << 8n) | BigInt(byte);
    }
    if (negative) value -= 1n << BigInt(length * 8);
    const number = Number(value);
    if (!Number.isSafeInteger(number)) this.#fail(`number out of range at ${start}`);
    return number;
  }

  /** Old GNU archives leave these fields empty or filled with spaces; anything unreadable counts as absent. */
  #gnuTime(block: Buffer, field: Field): TarTime | undefined {
    if ((block[field[0]] ?? 0) === 0) return undefined;
    for (let i = field[0]; i < field[0] + field[1] - 1; i++) {
      const byte = block[i] ?? 0;
      if ((byte & 0x80) !== 0 && i === field[0]) break;
      if (byte !== 0x20 && byte !== 0 && (byte < 0x30 || byte > 0x37)) return undefined;
    }
    return { seconds: this.#number(block, field), nanoseconds: 0 };
  }

  #decimal(text: string): number {
    if (!/^[0-9]{1,19}$/.test(text)) this.#fail(`number ${JSON.stringify(text.slice(0, 32))}`);
    const value = Number(text);
    if (!Number.isSafeInteger(value)) this.#fail(`number ${text}`);
    return value;
  }

  #integer(value: Uint8Array | undefined): number | undefined {
    if (value === undefined || value.length === 0) return undefined;
    const text = latin1(value) ?? "";
    if (!/^-?[0-9]{1,19}$/.test(text)) this.#fail(`number ${JSON.stringify(text.slice(0, 32))}`);
    const number = Number(text);
    if (!Number.isSafeInteger(number)) this.#fail(`number ${text}`);
    return number;
  }

  /** `seconds[.fraction]`, cut to nanoseconds. */
  #time(value: Uint8Array | undefined): TarTime | undefined {
    if (value === undefined) return undefined;
    const text = latin1(value) ?? "";
    const match = /^(-?)([0-9]{1,15})(?:\.([0-9]*))?$/.exec(text);
    if (match === null) this.#fail(`time ${JSON.stringify(text.slice(0, 32))}`);
    const seconds = Number(match[2]);
    const nanoseconds = Number((match[3] ?? "").slice(0, 9).padEnd(9, "0"));
    if (match[1] !== "-") return { seconds, nanoseconds };
    return nanoseconds === 0
      ? { seconds: 0 - seconds, nanoseconds: 0 }
      : { seconds: 0 - seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds };
  }

  /** Records are `<length> <key>=<value>\n`, the length counting all of it. */
  #records(bytes: Buffer): Map<string, Uint8Array> {
    const records = new Map<string, Uint8Array>();
    /** Sparse 0.0 repeats its keys, one pair per run; kept together as 0.1's map. */
    const sparse: string[] = [];
    for (let at = 0; at < bytes.length; ) {
      let space = at;
      let length = 0;
      while (space < bytes.length && space - at < 20) {
        const byte = bytes[space] ?? 0;
        if (byte === 0x20) break;
        if (byte < 0x30 || byte > 0x39) this.#fail("PAX record length");
        length = length * 10 + (byte - 0x30);
        space++;
      }
      const end = at + length;
      if (bytes[space] !== 0x20 || length < 5 || end > bytes.length || bytes[end - 1] !== 0x0a) {
        this.#fail("PAX record length");
      }
      const equals = bytes.indexOf(0x3d, space + 1);
      if (equals < 0 || equals >= end || equals === space + 1) this.#fail("PAX record without a key");
      const key = decodeName(bytes.subarray(space + 1, equals));
      const value = Uint8Array.prototype.slice.call(bytes, equals + 1, end - 1);
      at = end;
      if (key.includes("\0") || (NUL_FREE.has(key) && value.includes(0))) this.#fail(`PAX record ${key} with a NUL`);
      if (key === "GNU.sparse.offset" || key === "GNU.sparse.numbytes") {
        if (sparse.length >= MAX_SPARSE_RUNS) this.#fail("sparse map too long");
        if ((key === "GNU.sparse.offset") !== (sparse.length % 2 === 0)) this.#fail("sparse map out of order");
        sparse.push(latin1(value) ?? "");
        continue;
      }
      records.set(key, value);
    }
    if (sparse.length > 0) records.set("GNU.sparse.map", Buffer.from(sparse.join(","), "latin1"));
    return records;
  }
}

const NUL_FREE = new Set(["path", "linkpath", "uname", "gname"]);
const SLASH = Buffer.from("/");
const NOTHING = new Uint8Array();

const EMPTY_HEADER: TarHeader = {
  type: "other",
  typeFlag: 0,
  name: "",
  linkName: "",
  mode: 0,
  uid: 0,
  gid: 0,
  size: 0,
  mtime: { seconds: 0, nanoseconds: 0 },
  userName: "",
  groupName: "",
  devMajor: 0,
  devMinor: 0,
};

function optionalTime<Key extends "atime" | "ctime">(key: Key, time: TarTime | undefined): { [K in Key]?: TarTime } {
  const none: { [K in Key]?: TarTime } = {};
  return time === undefined ? none : { ...none, [key]: time };
}

function isZero(block: Buffer): boolean {
  for (let i = 0; i < BLOCK; i++) if (block[i] !== 0) return false;
  return true;
}

function paddingOf(size: number): number {
  const over = size % BLOCK;
  return over === 0 ? 0 : BLOCK - over;
}

function latin1(bytes: Uint8Array | undefined): string | undefined {
  return bytes === undefined
    ? undefined
    : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
}

function untilNul(bytes: Buffer): Uint8Array {
  const end = bytes.indexOf(0);
  return end < 0 ? bytes : bytes.subarray(0, end);
}

function text(block: Buffer, [start, length]: Field): Buffer {
  let end = start;
  while (end < start + length && block[end] !== 0) end++;
  return block.subarray(start, end);
}

function formatOf(block: Buffer): "v7" | "ustar" | "star" | "gnu" {
  const magic = block.toString("latin1", FIELD.magic[0], FIELD.magic[0] + 8);
  if (magic === "ustar  \0") return "gnu";
  if (magic !== "ustar\x0000") return "v7";
  return block.toString("latin1", 508, 512) === "tar\0" ? "star" : "ustar";
}

function typeOf(flag: number, name: string): TarType {
  switch (flag) {
    case FLAG.regularOld:
      return name.endsWith("/") ? "directory" : "file";
    case FLAG.regular:
    case FLAG.contiguous:
    case FLAG.gnuSparse:
      return "file";
    case FLAG.link:
      return "link";
    case FLAG.symlink:
      return "symlink";
    case FLAG.char:
      return "char";
    case FLAG.block:
      return "block";
    case FLAG.directory:
      return "directory";
    case FLAG.fifo:
      return "fifo";
    default:
      return "other";
  }
}

function xattrsOf(pax: ReadonlyMap<string, Uint8Array>): Map<string, Uint8Array> | undefined {
  let found: Map<string, Uint8Array> | undefined;
  for (const [key, value] of pax) {
    if (!key.startsWith(XATTR_PREFIX)) continue;
    found ??= new Map();
    found.set(key.slice(XATTR_PREFIX.length), value);
  }
  return found;
}
