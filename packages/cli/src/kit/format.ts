/** Numbers and times as the peers' command lines print them. */
import { nanosOf } from "@stevedore/base/moment";

const UNITS = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/** Bytes with one decimal and a binary unit: `1013.8 KiB`; `0.0 B` below 1024. */
export function formatBytes(bytes: number | bigint): string {
  let value = Number(bytes);
  if (value < 1024) return `${value.toFixed(1)} B`;
  let unit = "";
  for (const next of UNITS) {
    if (value < 1024) break;
    value /= 1024;
    unit = next;
  }
  return `${value.toFixed(1)} ${unit}`;
}

/** RFC 3339 with seconds, in UTC: `2026-11-21T03:51:25Z`. */
export function formatTime(time: Date): string {
  return time.toISOString().replace(/\.\d+Z$/, "Z");
}

/** A time as Go's `%v` prints it in UTC, without trailing zeros: `2026-11-21 03:51:11.671791882 +0000 UTC`. */
export function formatGoTime(time: Date, nanos: number = nanosOf(time)): string {
  const fraction = String(nanos).padStart(9, "0").replace(/0+$/, "");
  const seconds = time.toISOString().slice(0, "0000-00-00T00:00:00".length).replace("T", " ");
  return `${seconds}${fraction === "" ? "" : `.${fraction}`} +0000 UTC`;
}

const DECIMAL_UNITS = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

/** Bytes in decimal units with four significant digits: `369B`, `2.017MB`. */
export function humanSize(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < DECIMAL_UNITS.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${Number(value.toPrecision(4))}${DECIMAL_UNITS[unit] ?? ""}`;
}

/** A span of time in one rough unit: `22 seconds`, `About a minute`, `8 minutes`. `ms` is in milliseconds. */
export function humanDuration(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 1) return "Less than a second";
  if (seconds === 1) return "1 second";
  if (seconds < 60) return `${seconds} seconds`;
  const minutes = Math.floor(seconds / 60);
  if (minutes === 1) return "About a minute";
  if (minutes < 60) return `${minutes} minutes`;
  const hours = Math.floor(seconds / 3600 + 0.5);
  if (hours === 1) return "About an hour";
  if (hours < 48) return `${hours} hours`;
  if (hours < 24 * 7 * 2) return `${Math.floor(hours / 24)} days`;
  if (hours < 24 * 30 * 2) return `${Math.floor(hours / 24 / 7)} weeks`;
  if (hours < 24 * 365 * 2) return `${Math.floor(hours / 24 / 30)} months`;
  return `${Math.floor(hours / 24 / 365)} years`;
}
