import { classified } from "@stevedore/base/errors";
import {
  BLOCK,
  checksums,
  FIELD,
  type Field,
  FLAG,
  type TarHeader,
  type TarTime,
  type TarType,
  XATTR_PREFIX,
} from "./header.ts";
import { nameBytes } from "./names.ts";

/** What a written entry says; absent fields are empty or 0. */
export interface TarEntryInit
  extends Partial<
    Pick<
      TarHeader,
      "linkName" | "mode" | "uid" | "gid" | "size" | "mtime" | "userName" | "groupName" | "devMajor" | "devMinor"
    >
  > {
  readonly type: Exclude<TarType, "global" | "other">;
  /** Folders get their trailing slash here if it is missing. */
  readonly name: string;
  readonly xattrs?: ReadonlyMap<string, Uint8Array>;
}

/** Two zero blocks: the end of an archive. */
export const TAR_END: Uint8Array = new Uint8Array(2 * BLOCK);

const FLAGS: Readonly<Record<TarEntryInit["type"], number>> = {
  file: FLAG.regular,
  link: FLAG.link,
  symlink: FLAG.symlink,
  char: FLAG.char,
  block: FLAG.block,
  directory: FLAG.directory,
  fifo: FLAG.fifo,
};

/** What fits 7 and 11 octal digits. */
const MAX_OCTAL_8 = 0o7777777;
const MAX_OCTAL_12 = 0o77777777777;

/**
 * The blocks that introduce an entry: a ustar header where that can say everything, else a PAX header in front. Laid out
 * as Go's archive/tar lays out entries of format PAX (record order, names of the extra headers, prefix split), so that
 * the same tree gives the same bytes, and so the same diff ID, as containerd's differ. The caller writes `size` bytes and
 * {@link tarPadding} after it.
 *
 * @throws invalid-argument for a value that no header can hold.
 */
export function encodeTarHeader(entry: TarEntryInit): Uint8Array {
  const name = nameBytes(entry.type === "directory" && !entry.name.endsWith("/") ? `${entry.name}/` : entry.name);
  const link = nameBytes(entry.linkName ?? "");
  if (name.length === 0) throw classified("invalid-argument", "write archive: entry without a name");
  if (name.includes(0) || link.includes(0)) {
    throw classified("invalid-argument", `write archive: entry ${JSON.stringify(entry.name)}: NUL in a name`);
  }
  const records = new Map<string, Uint8Array>();
  const split = splitForPrefix(name);
  let ustar = true;
  if ((name.length > 100 || !isAscii(name)) && split === undefined) {
    records.set("path", name);
    ustar = false;
  } else if (split !== undefined) {
    // Only needed as a record when something else forces a PAX header.
    records.set("path", name);
  }
  const mustRecord = (key: string, value: Uint8Array): void => {
    records.set(key, value);
    ustar = false;
  };
  if (link.length > 100 || !isAscii(link)) mustRecord("linkpath", link);
  const { uid = 0, gid = 0, size = 0, mtime = EPOCH } = entry;
  if (uid < 0 || uid > MAX_OCTAL_8) mustRecord("uid", decimal(uid));
  if (gid < 0 || gid > MAX_OCTAL_8) mustRecord("gid", decimal(gid));
  if (size > MAX_OCTAL_12) mustRecord("size", decimal(size));
  if (mtime.seconds < 0 || mtime.seconds > MAX_OCTAL_12 || mtime.nanoseconds !== 0) {
    mustRecord("mtime", Buffer.from(formatTime(mtime), "latin1"));
  }
  for (const [key, text] of [
    ["uname", entry.userName],
    ["gname", entry.groupName],
  ] as const) {
    const bytes = nameBytes(text ?? "");
    if (bytes.length > 32 || !isAscii(bytes)) mustRecord(key, bytes);
  }
  for (const [key, value] of entry.xattrs ?? []) mustRecord(`${XATTR_PREFIX}${key}`, value);

  const block = Buffer.alloc(BLOCK);
  if (ustar) {
    fillBlock(block, entry, split === undefined ? name : split.suffix);
    if (split !== undefined) putText(block, FIELD.prefix, split.prefix);
    return seal(block);
  }
  fillBlock(block, entry, asciiOnly(name));
  const parts: Uint8Array[] = [];
  for (const key of [...records.keys()].toSorted(byCodeUnits)) parts.push(formatRecord(key, records.get(key) ?? NONE));
  const payload = Buffer.concat(parts);
  return Buffer.concat([paxHeaderBlock(name, payload.length), payload, tarPadding(payload.length), seal(block)]);
}

/** The zeros after `size` bytes of data. */
export function tarPadding(size: number): Uint8Array {
  const over = size % BLOCK;
  return over === 0 ? NONE : TAR_END.subarray(0, BLOCK - over);
}

const NONE = new Uint8Array();
const EPOCH: TarTime = { seconds: 0, nanoseconds: 0 };

function byCodeUnits(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function fillBlock(block: Buffer, entry: TarEntryInit, name: Uint8Array): void {
  const { mode = 0, uid = 0, gid = 0, size = 0, mtime = EPOCH, devMajor = 0, devMinor = 0 } = entry;
  putText(block, FIELD.name, name);
  putOctal(block, FIELD.mode, mode);
  putOctal(block, FIELD.uid, uid);
  putOctal(block, FIELD.gid, gid);
  putOctal(block, FIELD.size, size);
  putOctal(block, FIELD.mtime, mtime.seconds);
  block[FIELD.typeFlag[0]] = FLAGS[entry.type];
  putText(block, FIELD.linkName, asciiOnly(nameBytes(entry.linkName ?? "")));
  putText(block, FIELD.userName, asciiOnly(nameBytes(entry.userName ?? "")));
  putText(block, FIELD.groupName, asciiOnly(nameBytes(entry.groupName ?? "")));
  putOctal(block, FIELD.devMajor, devMajor);
  putOctal(block, FIELD.devMinor, devMinor);
}

/** The header of a PAX header: named `<dir>/PaxHeaders.0/<base>`, as POSIX suggests, without a process id. */
function paxHeaderBlock(name: Uint8Array, size: number): Uint8Array {
  const text = Buffer.from(name).toString("latin1");
  const slash = text.lastIndexOf("/");
  const parts = [text.slice(0, Math.max(slash, 0)), "PaxHeaders.0", text.slice(slash + 1)];
  const joined = asciiOnly(Buffer.from(parts.filter((part) => part !== "").join("/"), "latin1"));
  const block = Buffer.alloc(BLOCK);
  let end = Math.min(joined.length, FIELD.name[1]);
  while (end > 0 && joined[end - 1] === 0x2f) end--;
  putText(block, FIELD.name, joined.subarray(0, end));
  for (const field of [FIELD.mode, FIELD.uid, FIELD.gid, FIELD.mtime]) putOctal(block, field, 0);
  putOctal(block, FIELD.size, size);
  block[FIELD.typeFlag[0]] = FLAG.paxLocal;
  return seal(block);
}

/** Writes magic and checksum. */
function seal(block: Buffer): Uint8Array {
  block.write("ustar\x0000", FIELD.magic[0], "latin1");
  const { unsigned } = checksums(block);
  block.write(`${unsigned.toString(8).padStart(6, "0")}\0 `, FIELD.checksum[0], "latin1");
  return block;
}

function putText(block: Buffer, [start, length]: Field, bytes: Uint8Array): void {
  block.set(bytes.length > length ? bytes.subarray(0, length) : bytes, start);
}

/** Digits, zero-padded, and a NUL; a value that does not fit is 0 here and in a PAX record. */
function putOctal(block: Buffer, [start, length]: Field, value: number): void {
  const digits = length - 1;
  const text = value < 0 ? "0" : value.toString(8);
  block.write((text.length > digits ? "0" : text).padStart(digits, "0"), start, "latin1");
}

function isAscii(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte < 0x80);
}

function asciiOnly(bytes: Uint8Array): Uint8Array {
  return isAscii(bytes) ? bytes : bytes.filter((byte) => byte < 0x80);
}

/** Splits a long ASCII name at a slash so that ustar's prefix and name fields hold it, or undefined. */
function splitForPrefix(name: Uint8Array): { prefix: Uint8Array; suffix: Uint8Array } | undefined {
  if (name.length <= 100 || !isAscii(name)) return undefined;
  let length = name.length;
  if (length > 156) length = 156;
  else if (name[length - 1] === 0x2f) length--;
  const slash = name.subarray(0, length).lastIndexOf(0x2f);
  const suffix = name.length - slash - 1;
  if (slash <= 0 || suffix > 100 || suffix === 0 || slash > 155) return undefined;
  return { prefix: name.subarray(0, slash), suffix: name.subarray(slash + 1) };
}

function decimal(value: number): Uint8Array {
  return Buffer.from(String(value), "latin1");
}

/** Seconds with the fraction that is needed and no more; negative times as POSIX has them. */
function formatTime({ seconds, nanoseconds }: TarTime): string {
  if (nanoseconds === 0) return String(seconds);
  const negative = seconds < 0;
  const whole = negative ? 0 - seconds - 1 : seconds;
  const rest = negative ? 1_000_000_000 - nanoseconds : nanoseconds;
  return `${negative ? "-" : ""}${whole}.${String(rest).padStart(9, "0").replace(/0+$/, "")}`;
}

function formatRecord(key: string, value: Uint8Array): Uint8Array {
  const body = Buffer.concat([Buffer.from(` ${key}=`, "utf8"), value, Buffer.from("\n")]);
  // The length counts its own digits.
  let length = body.length + String(body.length).length;
  length = body.length + String(length).length;
  return Buffer.concat([Buffer.from(String(length), "latin1"), body]);
}
