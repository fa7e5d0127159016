/** A configuration after reading, merging and migration, in the shape of version 4. */

export type TomlTable = { [key: string]: TomlValue };
export type TomlValue = string | number | bigint | boolean | Date | TomlValue[] | TomlTable;

export function isTable(value: unknown): value is TomlTable {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

/** Where a value was read, for messages. Lines and columns count from 1. */
export interface Position {
  readonly file: string;
  readonly line: number;
  readonly column: number;
}

/** The newest version of the configuration format, containerd 2.3's. */
export const CONFIG_VERSION = 4;
