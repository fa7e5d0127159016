import { expect, test } from "bun:test";
import { createLogger } from "@stevedore/base";
import { samplerNamed, samplerOf } from "./sampler.ts";
import { exportSettings, resourceOf, type TracingConfig, whyOff } from "./settings.ts";
import { type EndedSpan, placeFrom, Tracer } from "./tracer.ts";

const NONE: TracingConfig = { endpoint: "", protocol: "", insecure: false, serviceName: "", samplingRatio: 0 };
const TRACE = "0af7651916cd43dd8448eb211c80319c";
const SPAN = "b7ad6b7169203331";

function headers(values: Readonly<Record<string, string>>): (name: string) => string | undefined {
  return (name) => values[name];
}

test("traceparent is read as W3C says; what is none counts as not there", () => {
  const of = (traceparent: string) => placeFrom(headers({ traceparent, tracestate: "a=1", baggage: "b=2" }));
  expect(of(`00-${TRACE}-${SPAN}-01`)).toEqual({
    traceId: TRACE,
    spanId: SPAN,
    sampled: true,
    state: "a=1",
    baggage: "b=2",
  });
  expect(of(`00-${TRACE}-${SPAN}-00`)?.sampled).toBe(false);
  expect(of(`01-${TRACE}-${SPAN}-03-more`)?.sampled).toBe(true);
  for (const bad of [
    "",
    `00-${TRACE}-${SPAN}-01-more`,
    `ff-${TRACE}-${SPAN}-01`,
    `00-${TRACE.toUpperCase()}-${SPAN}-01`,
    `00-${"0".repeat(32)}-${SPAN}-01`,
    `00-${TRACE}-${"0".repeat(16)}-01`,
    `00-${TRACE}-${SPAN}`,
  ]) {
    expect(of(bad)).toBeUndefined();
  }
});

test("spans know their parent, their time and what they failed with; headers carry on what came", () => {
  const ended: EndedSpan[] = [];
  const tracer = new Tracer({ sampler: () => true, sink: (span) => void ended.push(span) });
  const traceparent = `00-${TRACE}-${SPAN}-01`;
  const root = tracer.start("root", headers({ traceparent, tracestate: "a=1" }), { kind: "server" });
  const child = root.child("child", { attributes: { n: 1 } });
  child.set({ more: true });
  const { traceparent: passed, ...others } = child.headers();
  expect(passed).toMatch(new RegExp(`^00-${TRACE}-[0-9a-f]{16}-01$`));
  expect(others).toEqual({ tracestate: "a=1" });
  child.end(new TypeError("broken"));
  child.end();
  root.end();
  expect(ended.map(({ name }) => name)).toEqual(["child", "root"]);
  const [first, second] = ended;
  expect(first).toMatchObject({ attributes: { n: 1, more: true }, error: "broken", parentId: second?.place.spanId });
  expect(first?.events.map(({ name, attributes }) => [name, attributes])).toEqual([
    ["exception", { "exception.type": "TypeError", "exception.message": "broken" }],
  ]);
  expect(second).toMatchObject({ parentId: SPAN, kind: "server" });
  expect(second && first && second.start <= first.start && first.end <= second.end).toBe(true);
});

test("what is not sampled is not sent, and says so to those it calls", () => {
  const ended: EndedSpan[] = [];
  const sampler = samplerOf({}, 0, createLogger());
  const tracer = new Tracer({ sampler, sink: (span) => void ended.push(span) });
  const root = tracer.start("root", headers({ traceparent: `00-${TRACE}-${SPAN}-00` }));
  const child = root.child("child");
  expect(child.headers()["traceparent"]).toEndWith("-00");
  child.end();
  root.end();
  expect(ended).toEqual([]);
});

test("samplers by name", () => {
  const parent = { traceId: TRACE, spanId: SPAN, sampled: true, state: "", baggage: "" };
  const decide = (name: string, argument: string, span: { traced?: boolean; traceId?: string; name?: string }) =>
    samplerNamed(
      name,
      argument,
    )?.({
      parent: span.traced === undefined ? undefined : { ...parent, sampled: span.traced },
      traceId: span.traceId ?? TRACE,
      name: span.name ?? "x",
    });
  expect(decide("", "", {})).toBe(true);
  expect(decide("parentbased_always_on", "", { traced: false })).toBe(false);
  expect(decide("always_on", "", { traced: false })).toBe(true);
  expect(decide("always_off", "", { traced: true })).toBe(false);
  expect(decide("parentbased_always_off", "", { traced: true })).toBe(true);
  expect(decide("parentbased_always_off", "", {})).toBe(false);
  const low = `${"0".repeat(31)}1`;
  const high = "f".repeat(32);
  expect([decide("traceidratio", "0.5", { traceId: low }), decide("traceidratio", "0.5", { traceId: high })]).toEqual([
    true,
    false,
  ]);
  expect([
    decide("traceidratio", "0", { traceId: low }),
    decide("traceidratio", "nonsense", { traceId: high }),
  ]).toEqual([false, true]);
  expect([decide("NameBased", "a, x", {}), decide("parentbased_name", "a", {})]).toEqual([true, false]);
  expect(samplerNamed("jaeger_remote", "")).toBeUndefined();
});

test("what turns tracing off", () => {
  const on = { OTEL_EXPORTER_OTLP_ENDPOINT: "http://x" };
  expect(whyOff({}, "")).toBe("tracing endpoint not configured");
  expect(whyOff(on, "")).toBeUndefined();
  expect(whyOff({}, "http://x")).toBeUndefined();
  expect(whyOff({ ...on, OTEL_SDK_DISABLED: "true" }, "")).toBe("tracing disabled by env OTEL_SDK_DISABLED=true");
  expect(whyOff({ ...on, OTEL_SDK_DISABLED: "0" }, "")).toBeUndefined();
  expect(() => whyOff({ OTEL_SDK_DISABLED: "maybe" }, "")).toThrow("invalid value for OTEL_SDK_DISABLED");
});

test("endpoints of both protocols", () => {
  const http = (env: Record<string, string>, config: Partial<TracingConfig> = {}) =>
    exportSettings(env, { ...NONE, ...config }).target;
  expect(http({ OTEL_EXPORTER_OTLP_ENDPOINT: "http://c:4318/base/" })).toBe("http://c:4318/base/v1/traces");
  expect(http({ OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: "https://c/own" })).toBe("https://c/own");
  expect(http({}, { endpoint: "c:4318", insecure: true })).toBe("http://c:4318/v1/traces");
  expect(http({ OTEL_EXPORTER_OTLP_ENDPOINT: "http://env" }, { endpoint: "http://file" })).toBe("http://env/v1/traces");
  const grpc = (env: Record<string, string>, config: Partial<TracingConfig> = {}) => {
    const { target, tls } = exportSettings({ ...env, OTEL_EXPORTER_OTLP_PROTOCOL: "grpc" }, { ...NONE, ...config });
    return `${target} ${tls}`;
  };
  expect(grpc({ OTEL_EXPORTER_OTLP_ENDPOINT: "http://c:4317" })).toBe("c:4317 false");
  expect(grpc({ OTEL_EXPORTER_OTLP_ENDPOINT: "https://c" })).toBe("c:4317 true");
  expect(grpc({ OTEL_EXPORTER_OTLP_ENDPOINT: "http://c:80" })).toBe("c:80 false");
  expect(grpc({ OTEL_EXPORTER_OTLP_ENDPOINT: "c:1", OTEL_EXPORTER_OTLP_INSECURE: "true" })).toBe("c:1 false");
  expect(grpc({ OTEL_EXPORTER_OTLP_ENDPOINT: "unix:///run/o.sock" })).toBe("unix:///run/o.sock false");
  expect(grpc({}, { endpoint: "c:4317", insecure: true })).toBe("c:4317 false");
  expect(() => exportSettings({ OTEL_EXPORTER_OTLP_ENDPOINT: "ftp://c" }, NONE)).toThrow("tracing endpoint");
  expect(() => exportSettings({ OTEL_TRACES_EXPORTER: "zipkin" }, NONE)).toThrow(
    'unsupported traces exporter "zipkin"',
  );
  expect(() => exportSettings({ OTEL_EXPORTER_OTLP_PROTOCOL: "http/json" }, NONE)).toThrow("not implemented");
});

test("headers, limits and who sends", () => {
  const settings = exportSettings(
    {
      OTEL_EXPORTER_OTLP_ENDPOINT: "http://c",
      OTEL_EXPORTER_OTLP_HEADERS: "Api-Key=a%3Db, broken, x=1",
      OTEL_EXPORTER_OTLP_TIMEOUT: "2000",
      OTEL_BSP_MAX_QUEUE_SIZE: "7",
      OTEL_BSP_SCHEDULE_DELAY: "nonsense",
    },
    NONE,
  );
  expect(settings.headers).toEqual({ "api-key": "a=b", x: "1" });
  expect([settings.timeoutMs, settings.batch]).toEqual([2000, { delayMs: 5000, maxQueue: 7, maxBatch: 512 }]);
  const of = (env: Record<string, string>, serviceName = "") => resourceOf(env, { serviceName, version: "1" });
  expect(of({})["service.name"]).toBe("containerd");
  expect(of({}, "file")["service.name"]).toBe("file");
  expect(of({ OTEL_RESOURCE_ATTRIBUTES: "service.name=attr,k=v" })).toMatchObject({ "service.name": "attr", k: "v" });
  expect(of({ OTEL_SERVICE_NAME: "env", OTEL_RESOURCE_ATTRIBUTES: "service.name=attr" }, "file")["service.name"]).toBe(
    "env",
  );
});
