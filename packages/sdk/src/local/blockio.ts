/** Classes of block I/O: names that a file gives to weights and rates of the host's block devices. */
import { glob, readFile, realpath, stat } from "node:fs/promises";
import { classified, messageOf } from "@stevedore/base";

export interface DeviceWeight {
  readonly major: number;
  readonly minor: number;
  readonly weight: number;
}

export interface DeviceRate {
  readonly major: number;
  readonly minor: number;
  /** Bytes or operations a second. */
  readonly rate: number;
}

/** `linux.resources.blockIO` of a runtime spec; without what is not limited. */
export interface BlockIo {
  weight?: number;
  weightDevice?: DeviceWeight[];
  throttleReadBpsDevice?: DeviceRate[];
  throttleWriteBpsDevice?: DeviceRate[];
  throttleReadIOPSDevice?: DeviceRate[];
  throttleWriteIOPSDevice?: DeviceRate[];
}

export type BlockIoClasses = ReadonlyMap<string, BlockIo>;

/** Rates as a class spells them, and where they go. */
const RATES = [
  ["ThrottleReadBps", "throttleReadBpsDevice"],
  ["ThrottleWriteBps", "throttleWriteBpsDevice"],
  ["ThrottleReadIOPS", "throttleReadIOPSDevice"],
  ["ThrottleWriteIOPS", "throttleWriteIOPSDevice"],
] as const;

const MIN_WEIGHT = 10;
const MAX_WEIGHT = 1000;
const MAX_FILE_BYTES = 1 << 20;

/** Block devices that one pattern may match. */
const MAX_DEVICES = 4096;

/**
 * Reads the classes of a file (YAML: `Classes`, by name a list of `Devices`, `Weight` and rates).
 *
 * @param warn told of devices that are not there; the rest counts all the same.
 * @throws invalid-argument for values that mean nothing
 */
export async function readBlockIoClasses(path: string, warn: (message: string) => void): Promise<BlockIoClasses> {
  let text: string;
  try {
    if ((await stat(path)).size > MAX_FILE_BYTES) throw new Error(`longer than ${MAX_FILE_BYTES} bytes`);
    text = await readFile(path, "utf8");
  } catch (cause) {
    throw classified("invalid-argument", `failed to read config file "${path}": ${messageOf(cause)}`, { cause });
  }
  try {
    return await parseClasses(text, warn);
  } catch (cause) {
    const why = messageOf(cause);
    throw classified("invalid-argument", `failed to set configuration from file "${path}": ${why}`, { cause });
  }
}

async function parseClasses(text: string, warn: (message: string) => void): Promise<BlockIoClasses> {
  const tree = fields(Bun.YAML.parse(text), "configuration");
  const classes = new Map<string, BlockIo>();
  for (const [name, entries] of Object.entries(fields(tree["Classes"], "Classes"))) {
    if (!Array.isArray(entries)) throw new Error(`class ${name}: want a list`);
    const made: BlockIo = {};
    for (const entry of entries) await applyEntry(made, fields(entry, `class ${name}`), warn);
    classes.set(name, made);
  }
  return classes;
}

async function applyEntry(
  made: BlockIo,
  entry: Readonly<Record<string, unknown>>,
  warn: (message: string) => void,
): Promise<void> {
  const weight = quantity("Weight", entry["Weight"]);
  if (weight !== undefined && (weight < MIN_WEIGHT || weight > MAX_WEIGHT)) {
    const [word, bound] =
      weight < MIN_WEIGHT ? ["smaller than minimum", MIN_WEIGHT] : ["bigger than maximum", MAX_WEIGHT];
    throw new Error(`value of "Weight" (${weight}) ${word} (${bound})`);
  }
  const rates = RATES.map(([name, key]) => ({ key, rate: quantity(name, entry[name]) }));
  const patterns = entry["Devices"];
  if (patterns === undefined || patterns === null) {
    if (weight !== undefined) made.weight = weight;
    if (rates.some(({ rate }) => rate !== undefined)) throw new Error("ignoring throttling: Devices not listed");
    return;
  }
  if (!Array.isArray(patterns)) throw new Error("Devices: want a list of paths");
  for (const { major, minor } of await blockDevices(patterns.map(String), warn)) {
    if (weight !== undefined) made.weightDevice = withDevice(made.weightDevice, { major, minor, weight });
    for (const { key, rate } of rates)
      if (rate !== undefined) made[key] = withDevice(made[key], { major, minor, rate });
  }
}

/** A later entry of a device takes the place of an earlier one. */
function withDevice<T extends { readonly major: number; readonly minor: number }>(
  before: readonly T[] | undefined,
  entry: T,
): T[] {
  const others = (before ?? []).filter(({ major, minor }) => major !== entry.major || minor !== entry.minor);
  return [...others, entry];
}

async function blockDevices(
  patterns: readonly string[],
  warn: (message: string) => void,
): Promise<{ readonly major: number; readonly minor: number }[]> {
  const paths = new Set<string>();
  for (const pattern of patterns) {
    const before = paths.size;
    for await (const match of glob(pattern)) {
      paths.add(await realpath(match).catch(() => match));
      if (paths.size > MAX_DEVICES) throw new Error(`Devices: more than ${MAX_DEVICES} match`);
    }
    if (paths.size === before) warn(`device wildcard "${pattern}" does not match any device nodes`);
  }
  const devices: { major: number; minor: number }[] = [];
  for (const path of [...paths].sort()) {
    const found = await stat(path).catch(() => undefined);
    if (found?.isBlockDevice() === true) devices.push(deviceNumbers(BigInt(found.rdev)));
    else warn(`file "${path}" is not a block device`);
  }
  if (devices.length === 0) warn(`no matches on any of Devices: [${patterns.join(" ")}], parameters ignored`);
  return devices;
}

/** Linux's dev_t: 12 bits of the major and 20 of the minor number, in four pieces. */
function deviceNumbers(rdev: bigint): { major: number; minor: number } {
  return {
    major: Number(((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & 0xff_ff_f0_00n)),
    minor: Number((rdev & 0xffn) | ((rdev >> 12n) & 0xff_ff_ff_00n)),
  };
}

/** What a unit after a number stands for, as Kubernetes spells quantities. */
const UNITS: Readonly<Record<string, number>> = {
  n: 1e-9,
  u: 1e-6,
  m: 0.001,
  "": 1,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
  E: 1e18,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
  Ei: 2 ** 60,
};

/** @returns a whole number, rounded up; undefined for none. */
function quantity(field: string, value: unknown): number | undefined {
  if (value === undefined || value === null || value === "") return undefined;
  const text = typeof value === "string" ? value : JSON.stringify(value);
  const match = /^([+-]?(?:\d+\.?\d*|\.\d+))(?:[eE]([+-]?\d+)|([a-zA-Z]{0,2}))$/.exec(text);
  const unit = match?.[2] === undefined ? UNITS[match?.[3] ?? "-"] : 10 ** Number(match[2]);
  if (match?.[1] === undefined || unit === undefined) throw new Error(`syntax error in "${field}" ("${text}")`);
  const whole = Math.ceil(Number(match[1]) * unit);
  if (whole < 0) throw new Error(`value of "${field}" (${whole}) smaller than minimum (0)`);
  return whole;
}

function fields(value: unknown, what: string): Readonly<Record<string, unknown>> {
  if (value === undefined || value === null) return {};
  if (typeof value !== "object" || Array.isArray(value)) throw new Error(`${what}: want a mapping`);
  return { ...value };
}
