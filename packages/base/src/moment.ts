/** Nanoseconds of a millisecond. */
const PER_MS = 1_000_000;

/**
 * A date that is known better than to the millisecond. Everything that takes a Date takes it; {@link nanosOf} and
 * {@link fractionalMs} tell the rest. A structured clone (between threads) is a plain Date.
 */
export class Moment extends Date {
  /** Nanoseconds below the millisecond, 0 to 999,999. */
  readonly below: number;

  /** @param milliseconds whole ones since 1970. */
  constructor(milliseconds: number, below = 0) {
    super(milliseconds);
    this.below = below;
  }
}

/** How far the steady clock may have gone from the wall clock, milliseconds: beyond that the wall clock was set. */
const MAX_DRIFT_MS = 2;

/** Wall clock minus steady clock, milliseconds. */
let offset = Number.NaN;

/** Now, to the microsecond: the wall clock, which tells milliseconds, with what the steady clock says in between. */
export function nowMoment(): Moment {
  return momentOf(nowMs());
}

/** As {@link nowMoment}, as milliseconds with a fraction. */
export function nowMs(): number {
  const steady = performance.now();
  const wall = Date.now();
  if (!(Math.abs(steady + offset - wall - 0.5) <= MAX_DRIFT_MS)) offset = wall - steady;
  return Math.round((steady + offset) * 1_000) / 1_000;
}

/** A moment from milliseconds with a fraction, to the microsecond, which is what a number can tell. */
export function momentOf(milliseconds: number): Moment {
  return momentOfMicros(Math.round(milliseconds * 1_000));
}

/** Milliseconds since 1970 with a fraction. */
export function fractionalMs(date: Date): number {
  return date.getTime() + (date instanceof Moment ? date.below / PER_MS : 0);
}

/** A moment from whole microseconds since 1970. */
export function momentOfMicros(microseconds: number): Moment {
  const whole = Math.floor(microseconds / 1_000);
  return new Moment(whole, (microseconds - whole * 1_000) * 1_000);
}

/** Whole microseconds since 1970. */
export function microsOf(date: Date): number {
  return date.getTime() * 1_000 + (date instanceof Moment ? Math.floor(date.below / 1_000) : 0);
}

/** The sub-second part in nanoseconds, 0 to 999,999,999. */
export function nanosOf(date: Date): number {
  const ms = date.getTime();
  return (ms - Math.floor(ms / 1_000) * 1_000) * PER_MS + (date instanceof Moment ? date.below : 0);
}

/** A moment from seconds since 1970 and the nanoseconds after, 0 to 999,999,999. */
export function momentFrom(seconds: number, nanos: number): Moment {
  const ms = Math.floor(nanos / PER_MS);
  return new Moment(seconds * 1_000 + ms, nanos - ms * PER_MS);
}

/** RFC 3339 in UTC with as many digits after the second as are not zero, as Go's RFC3339Nano. */
export function momentText(date: Date): string {
  const fraction = String(nanosOf(date)).padStart(9, "0").replace(/0+$/, "");
  return date.toISOString().replace(/\.\d+Z$/, fraction === "" ? "Z" : `.${fraction}Z`);
}

/** The moment of a text in RFC 3339; what Date makes of it when it is none. */
export function momentIn(text: string): Date {
  const date = new Date(text);
  const fraction = /\.(\d{1,9})/.exec(text)?.[1];
  if (fraction === undefined || Number.isNaN(date.getTime())) return date;
  return momentFrom(Math.floor(date.getTime() / 1_000), Number(fraction.padEnd(9, "0")));
}
