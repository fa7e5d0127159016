/** Profiles in pprof's format (profile.proto, gzipped), which `go tool pprof` and its friends read. */
import { promisify } from "node:util";
import { gzip } from "node:zlib";
import { Line, Location, Function as PprofFunction, Profile, Sample, StringTable, ValueType } from "pprof-format";

/** A function in a stack; what is unknown is empty or 0. */
export interface Frame {
  readonly name: string;
  readonly file: string;
  /** From 1. */
  readonly line: number;
}

export interface StackSample {
  /** Innermost function first. */
  readonly stack: readonly Frame[];
  /** One value for each of the profile's kinds. */
  readonly values: readonly number[];
}

export interface ProfileKind {
  readonly type: string;
  readonly unit: string;
}

export interface ProfileOptions {
  readonly kinds: readonly ProfileKind[];
  /** The kind a viewer shows first. */
  readonly shownKind: string;
  readonly samples: readonly StackSample[];
  /** Milliseconds since the epoch. */
  readonly takenAt: number;
  readonly durationMs?: number;
  /** What lies between two samples. */
  readonly period?: { readonly kind: ProfileKind; readonly value: number };
}

const NANOS_PER_MS = 1_000_000n;

const gzipAsync = promisify(gzip);

/** The profile as gzipped bytes. */
export async function encodeProfile(options: ProfileOptions): Promise<Uint8Array> {
  const strings = new StringTable();
  const kindOf = ({ type, unit }: ProfileKind): ValueType =>
    new ValueType({ type: strings.dedup(type), unit: strings.dedup(unit) });
  const functions = new Map<string, PprofFunction>();
  const locations = new Map<string, Location>();
  const locationOf = (frame: Frame): number | bigint => {
    const functionKey = `${frame.name}\0${frame.file}`;
    let called = functions.get(functionKey);
    if (called === undefined) {
      const name = strings.dedup(frame.name);
      called = new PprofFunction({
        id: functions.size + 1,
        name,
        systemName: name,
        filename: strings.dedup(frame.file),
      });
      functions.set(functionKey, called);
    }
    const key = `${functionKey}\0${frame.line}`;
    let location = locations.get(key);
    if (location === undefined) {
      const line = new Line({ functionId: called.id, line: frame.line });
      location = new Location({ id: locations.size + 1, line: [line] });
      locations.set(key, location);
    }
    return location.id;
  };
  const samples = options.samples.map(
    ({ stack, values }) => new Sample({ locationId: stack.map(locationOf), value: [...values] }),
  );
  const profile = new Profile({
    sampleType: options.kinds.map(kindOf),
    sample: samples,
    function: [...functions.values()],
    location: [...locations.values()],
    stringTable: strings,
    timeNanos: BigInt(Math.round(options.takenAt)) * NANOS_PER_MS,
    durationNanos: BigInt(Math.round(options.durationMs ?? 0)) * NANOS_PER_MS,
    defaultSampleType: strings.dedup(options.shownKind),
    ...(options.period === undefined ? {} : { periodType: kindOf(options.period.kind), period: options.period.value }),
  });
  return gzipAsync(profile.encode());
}
