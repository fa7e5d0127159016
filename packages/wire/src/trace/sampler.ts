/** Samplers by the names of OTEL_TRACES_SAMPLER, with the two that containerd adds. */
import type { Logger } from "@stevedore/base";
import type { Variables } from "./settings.ts";
import type { Sampler } from "./tracer.ts";

const always: Sampler = () => true;
const never: Sampler = () => false;

/** Spans with a parent follow it; `root` decides for the others. */
function parentBased(root: Sampler): Sampler {
  return (span) => span.parent?.sampled ?? root(span);
}

/** Bits of the trace id that decide: the same traces are chosen by everybody with the same ratio. */
const RATIO_BITS = 63n;

function byRatio(ratio: number): Sampler {
  if (ratio >= 1) return always;
  const bound = BigInt(Math.floor(Math.max(ratio, 0) * Number(1n << RATIO_BITS)));
  return ({ traceId }) => BigInt(`0x${traceId.slice(16)}`) >> 1n < bound;
}

function byName(names: string): Sampler {
  const allowed = new Set(names.split(",").map((name) => name.trim()));
  return ({ name }) => allowed.has(name);
}

/**
 * @param name of a sampler; "" for the usual one, which records what the caller records and all that begins here.
 * @param argument its ratio, or for containerd's two a list of span names.
 * @returns undefined for a name that is none.
 */
export function samplerNamed(name: string, argument: string): Sampler | undefined {
  // What is no ratio counts as 1, as in OpenTelemetry.
  const given = argument.trim() === "" ? Number.NaN : Number(argument);
  const ratio = given >= 0 && given <= 1 ? given : 1;
  switch (name.trim().toLowerCase()) {
    case "":
    case "parentbased_always_on":
      return parentBased(always);
    case "always_on":
      return always;
    case "always_off":
      return never;
    case "traceidratio":
      return byRatio(ratio);
    case "parentbased_always_off":
      return parentBased(never);
    case "parentbased_traceidratio":
      return parentBased(byRatio(ratio));
    case "namebased":
      return byName(argument);
    case "parentbased_name":
      return parentBased(byName(argument));
    default:
      return undefined;
  }
}

/**
 * The sampler that is configured: by OTEL_TRACES_SAMPLER, else by the key `sampling_ratio`, else the usual one.
 * A name that is none is told of and counts as not given, as in OpenTelemetry.
 */
export function samplerOf(env: Variables, ratio: number, log: Pick<Logger, "warn">): Sampler {
  const name = env["OTEL_TRACES_SAMPLER"] ?? "";
  if (name === "" && ratio > 0) return parentBased(byRatio(ratio));
  const found = samplerNamed(name, env["OTEL_TRACES_SAMPLER_ARG"] ?? "");
  if (found !== undefined) return found;
  log.warn("unsupported sampler: spans are sampled as usual", { OTEL_TRACES_SAMPLER: name });
  return parentBased(always);
}
