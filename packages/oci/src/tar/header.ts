/** What a tar entry is. `other` keeps the type flag of one this codec has no name for. */
export type TarType =
  | "file"
  | "link"
  | "symlink"
  | "char"
  | "block"
  | "directory"
  | "fifo"
  /** A PAX global header. Its records are not merged into later entries, as Go's archive/tar does not either. */
  | "global"
  | "other";

/** A moment: seconds since 1970 (may be negative) and nanoseconds from 0 to 999,999,999. */
export interface TarTime {
  readonly seconds: number;
  readonly nanoseconds: number;
}

/** A run of bytes that a sparse file really holds. */
export interface SparseRun {
  readonly offset: number;
  readonly length: number;
}

export interface TarHeader {
  readonly type: TarType;
  /** The type byte of the header block. */
  readonly typeFlag: number;
  /** As the archive has it, neither cleaned nor checked; see `names.ts` for bytes that are not UTF-8. */
  readonly name: string;
  readonly linkName: string;
  /** Permission and set-id bits; type bits of the field are dropped. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Bytes of the file, holes included; 0 for all but files. */
  readonly size: number;
  readonly mtime: TarTime;
  readonly atime?: TarTime;
  readonly ctime?: TarTime;
  readonly userName: string;
  readonly groupName: string;
  readonly devMajor: number;
  readonly devMinor: number;
  /** From SCHILY.xattr records: name to value. */
  readonly xattrs?: ReadonlyMap<string, Uint8Array>;
  /** All PAX records of the entry, values as bytes. */
  readonly pax?: ReadonlyMap<string, Uint8Array>;
  /** Present for sparse files: the runs that hold data, in order. */
  readonly sparse?: readonly SparseRun[];
}

export const BLOCK = 512;

/** PAX key prefix of extended attributes; star's, and what every container tool writes. */
export const XATTR_PREFIX = "SCHILY.xattr.";

/** Where the fields of a header block lie: [offset, length]. From POSIX pax and GNU tar's manual. */
export const FIELD = {
  name: [0, 100],
  mode: [100, 8],
  uid: [108, 8],
  gid: [116, 8],
  size: [124, 12],
  mtime: [136, 12],
  checksum: [148, 8],
  typeFlag: [156, 1],
  linkName: [157, 100],
  magic: [257, 8],
  userName: [265, 32],
  groupName: [297, 32],
  devMajor: [329, 8],
  devMinor: [337, 8],
  prefix: [345, 155],
  /** star keeps a shorter prefix, then two times, then its own mark at 508. */
  starPrefix: [345, 131],
  starAtime: [476, 12],
  starCtime: [488, 12],
  gnuAtime: [345, 12],
  gnuCtime: [357, 12],
  gnuSparse: [386, 96],
  gnuExtended: [482, 1],
  gnuRealSize: [483, 12],
} as const;

export type Field = (typeof FIELD)[keyof typeof FIELD];

/** Type flags, as character codes. */
export const FLAG = {
  regularOld: 0,
  regular: 0x30,
  link: 0x31,
  symlink: 0x32,
  char: 0x33,
  block: 0x34,
  directory: 0x35,
  fifo: 0x36,
  contiguous: 0x37,
  paxLocal: 0x78,
  paxGlobal: 0x67,
  gnuLongName: 0x4c,
  gnuLongLink: 0x4b,
  gnuSparse: 0x53,
} as const;

/** Sum over a block with the checksum field taken as spaces: unsigned as POSIX has it, and signed as old tars wrote it. */
export function checksums(block: Uint8Array): { unsigned: number; signed: number } {
  let unsigned = 0;
  let signed = 0;
  for (let i = 0; i < BLOCK; i++) {
    const byte = i >= 148 && i < 156 ? 0x20 : (block[i] ?? 0);
    unsigned += byte;
    signed += byte < 0x80 ? byte : byte - 256;
  }
  return { unsigned, signed };
}
