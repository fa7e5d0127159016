/** What OTEL_* variables and the configuration say of tracing. Pure; small, since it is read at every start. */
import { classified } from "@stevedore/base";

export type Variables = Readonly<Record<string, string | undefined>>;

/** Keys of containerd's two tracing plugins, "" and 0 for unset. Deprecated since 1.7.8: variables win. */
export interface TracingConfig {
  readonly endpoint: string;
  readonly protocol: string;
  readonly insecure: boolean;
  readonly serviceName: string;
  readonly samplingRatio: number;
}

/** Where spans go, and how. */
export interface ExportSettings {
  readonly protocol: "http/protobuf" | "grpc";
  /** A URL for HTTP; `host:port` or `unix:` for gRPC. */
  readonly target: string;
  /** gRPC with TLS. HTTP says so by its scheme. */
  readonly tls: boolean;
  readonly headers: Readonly<Record<string, string>>;
  readonly gzip: boolean;
  /** Of one request, in milliseconds. */
  readonly timeoutMs: number;
  /** PEM files, "" for none. */
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
  readonly batch: BatchSettings;
}

export interface BatchSettings {
  /** Milliseconds a span waits for others. */
  readonly delayMs: number;
  /** Spans that wait at most; more are dropped. */
  readonly maxQueue: number;
  /** Spans in one request. */
  readonly maxBatch: number;
}

const SIGNAL = "OTEL_EXPORTER_OTLP_TRACES_";
const GENERAL = "OTEL_EXPORTER_OTLP_";

/** Defaults of OpenTelemetry. */
const TIMEOUT_MS = 10_000;
const BATCH: BatchSettings = { delayMs: 5_000, maxQueue: 2_048, maxBatch: 512 };
const HTTP_PATH = "v1/traces";
const GRPC_PORT = 4317;

/**
 * Whether tracing is off, and why.
 *
 * @throws invalid-argument for a value of OTEL_SDK_DISABLED that is no truth value.
 */
export function whyOff(env: Variables, endpoint: string): string | undefined {
  const disabled = env["OTEL_SDK_DISABLED"] ?? "";
  if (disabled !== "") {
    const value = truthOf(disabled);
    if (value === undefined) {
      throw classified(
        "invalid-argument",
        `invalid value for OTEL_SDK_DISABLED: ${JSON.stringify(disabled)}: invalid argument`,
      );
    }
    if (value) return `tracing disabled by env OTEL_SDK_DISABLED=${disabled}`;
  }
  if (endpoint === "" && of(env, "ENDPOINT") === "") return "tracing endpoint not configured";
  return undefined;
}

/** Go's spellings of truth. */
function truthOf(text: string): boolean | undefined {
  if (["1", "t", "T", "TRUE", "true", "True"].includes(text)) return true;
  return ["0", "f", "F", "FALSE", "false", "False"].includes(text) ? false : undefined;
}

function of(env: Variables, name: string): string {
  return (env[SIGNAL + name] ?? "").trim() || (env[GENERAL + name] ?? "").trim();
}

function numberOf(env: Variables, name: string, otherwise: number): number {
  const value = Number((env[name] ?? "").trim() || Number.NaN);
  return Number.isFinite(value) && value > 0 ? value : otherwise;
}

/**
 * @throws invalid-argument for an exporter other than OTLP or an endpoint that is none; not-implemented for another
 * protocol.
 */
export function exportSettings(env: Variables, config: TracingConfig): ExportSettings {
  const exporter = env["OTEL_TRACES_EXPORTER"] ?? "";
  if (exporter !== "" && exporter !== "otlp") {
    throw classified("invalid-argument", `unsupported traces exporter ${JSON.stringify(exporter)}: invalid argument`);
  }
  const protocol = of(env, "PROTOCOL") || config.protocol || "http/protobuf";
  if (protocol !== "http/protobuf" && protocol !== "grpc") {
    throw classified("not-implemented", `OpenTelemetry protocol ${JSON.stringify(protocol)} : not implemented`);
  }
  const timeout = of(env, "TIMEOUT");
  return {
    protocol,
    ...(protocol === "grpc" ? grpcTarget(env, config) : httpTarget(env, config)),
    headers: headersIn(of(env, "HEADERS")),
    gzip: of(env, "COMPRESSION") === "gzip",
    timeoutMs: Number(timeout) > 0 ? Number(timeout) : TIMEOUT_MS,
    ca: of(env, "CERTIFICATE"),
    cert: of(env, "CLIENT_CERTIFICATE"),
    key: of(env, "CLIENT_KEY"),
    batch: {
      delayMs: numberOf(env, "OTEL_BSP_SCHEDULE_DELAY", BATCH.delayMs),
      maxQueue: numberOf(env, "OTEL_BSP_MAX_QUEUE_SIZE", BATCH.maxQueue),
      maxBatch: numberOf(env, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH.maxBatch),
    },
  };
}

type Target = Pick<ExportSettings, "target" | "tls">;

function httpTarget(env: Variables, config: TracingConfig): Target {
  // The signal's own endpoint is taken as it is; a general one is the base of all signals.
  const own = (env[`${SIGNAL}ENDPOINT`] ?? "").trim();
  const base = (env[`${GENERAL}ENDPOINT`] ?? "").trim();
  const given = own || base || config.endpoint;
  const text = given.includes("://") ? given : `${config.insecure ? "http" : "https"}://${given}`;
  if (!URL.canParse(text)) throw badEndpoint(given);
  const url = new URL(text);
  if (url.protocol !== "http:" && url.protocol !== "https:") throw badEndpoint(given);
  if (own === "") url.pathname = `${url.pathname.replace(/\/+$/, "")}/${HTTP_PATH}`;
  return { target: url.href, tls: url.protocol === "https:" };
}

function grpcTarget(env: Variables, config: TracingConfig): Target {
  const given = of(env, "ENDPOINT") || config.endpoint;
  if (given.startsWith("unix:")) return { target: given, tls: false };
  const insecure = truthOf(of(env, "INSECURE")) ?? config.insecure;
  const text = given.includes("://") ? given : `${insecure ? "http" : "https"}://${given}`;
  if (!URL.canParse(text)) throw badEndpoint(given);
  const { protocol, hostname, port } = new URL(text);
  // URL drops the usual port of a scheme.
  const usual = /:(80|443)(\/|$)/.exec(text)?.[1] ?? String(GRPC_PORT);
  return { target: `${hostname}:${port === "" ? usual : port}`, tls: protocol === "https:" };
}

function badEndpoint(given: string): Error {
  return classified("invalid-argument", `read tracing endpoint ${JSON.stringify(given)}: want a URL or host:port`);
}

/** `a=1,b=2`, values with percent signs; pairs that are none are left out. */
function headersIn(text: string): Record<string, string> {
  const headers: Record<string, string> = {};
  for (const [name, value] of pairsIn(text)) headers[name.toLowerCase()] = value;
  return headers;
}

function pairsIn(text: string): (readonly [string, string])[] {
  return text.split(",").flatMap((pair) => {
    const equals = pair.indexOf("=");
    if (equals < 1) return [];
    const value = pair.slice(equals + 1).trim();
    try {
      return [[pair.slice(0, equals).trim(), decodeURIComponent(value)] as const];
    } catch {
      return [];
    }
  });
}

/** Who sends the spans. */
export function resourceOf(
  env: Variables,
  of: { readonly serviceName: string; readonly version: string },
): Readonly<Record<string, string>> {
  const attributes = Object.fromEntries(pairsIn(env["OTEL_RESOURCE_ATTRIBUTES"] ?? ""));
  const name = (env["OTEL_SERVICE_NAME"] ?? "") || of.serviceName || attributes["service.name"] || "containerd";
  return {
    ...attributes,
    "service.name": name,
    "telemetry.sdk.name": "stevedore",
    "telemetry.sdk.language": "nodejs",
    "telemetry.sdk.version": of.version,
  };
}
