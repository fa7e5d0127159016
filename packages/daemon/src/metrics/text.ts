/** Prometheus' text format, version 0.0.4, to the byte as the Go client writes it. */
import type { Family, HistogramValue, Sample } from "./family.ts";

/** Go's shortest `%g` writes an exponent from this power of ten on, and below the other. */
const EXPONENT_FROM = 6;
const EXPONENT_BELOW = -4;

/** A number in Go's shortest form: `1e-05`, `1.234567e+06`, `+Inf`. */
export function goNumber(value: number): string {
  // Most values are small whole numbers.
  if (Number.isInteger(value) && value > -1e6 && value < 1e6) return String(value);
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "+Inf" : "-Inf";
  const [digits = "0", power = "0"] = value.toExponential().split("e");
  const exponent = Number(power);
  if (exponent >= EXPONENT_BELOW && exponent < EXPONENT_FROM) return String(value);
  const size = Math.abs(exponent);
  return `${digits}e${exponent < 0 ? "-" : "+"}${size < 10 ? "0" : ""}${size}`;
}

/** The page as text. */
export function textOf(families: readonly Family[]): string {
  const parts: string[] = [];
  for (const { meta, samples } of families) {
    const { name, help, kind } = meta;
    parts.push(`# HELP ${name} ${help.replace(/[\\\n]/g, (char) => (char === "\n" ? "\\n" : "\\\\"))}\n`);
    parts.push(`# TYPE ${name} ${kind}\n`);
    for (const sample of samples) parts.push(linesOf(name, sample));
  }
  return parts.join("");
}

function linesOf(name: string, { labels, value }: Sample): string {
  const { text } = labels;
  if (typeof value === "number") return `${name}${text === "" ? "" : `{${text}}`} ${goNumber(value)}\n`;
  return histogramLines(name, text, value);
}

function histogramLines(name: string, text: string, { bounds, cumulative, count, sum }: HistogramValue): string {
  const before = text === "" ? "" : `${text},`;
  const braced = text === "" ? "" : `{${text}}`;
  const buckets = bounds.map(
    (bound, at) => `${name}_bucket{${before}le="${goNumber(bound)}"} ${goNumber(cumulative[at] ?? 0)}\n`,
  );
  return `${buckets.join("")}${name}_bucket{${before}le="+Inf"} ${goNumber(count)}\n${name}_sum${braced} ${goNumber(sum)}\n${name}_count${braced} ${goNumber(count)}\n`;
}
