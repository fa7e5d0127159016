/** Numbers and times as the peers' command lines print them. */

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
