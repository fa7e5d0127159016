import { describe, expect, test } from "bun:test";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { AnySchema } from "@bufbuild/protobuf/wkt";
import { encodeText } from "@stevedore/base";
import { ContainerCreateSchema } from "../gen/containerd/events/container_pb.ts";
import { TaskCreateSchema, TaskExitSchema } from "../gen/containerd/events/task_pb.ts";
import { OptionsSchema } from "../gen/containerd/runc/v1/options_pb.ts";
import { MetricsSchema } from "../gen/io/containerd/cgroups/v2/metrics_pb.ts";
import { anyToGoJson, messageToGoJson } from "./go-json.ts";
import { isAny, JsonTypeUrl, knownTypes, packAny, schemaFor, unpackAny, unpackAnything } from "./typeurl.ts";

describe("typeurl", () => {
  test("every known name loads the schema of that name", async () => {
    for (const name of knownTypes()) expect((await schemaFor(name))?.typeName).toBe(name);
  });

  test("packs with the bare name and unpacks any spelling", () => {
    const any = packAny(OptionsSchema, create(OptionsSchema, { binaryName: "crun" }));
    expect(any.typeUrl).toBe("containerd.runc.v1.Options");
    expect(unpackAny(OptionsSchema, any).binaryName).toBe("crun");
    const spelled = { ...any, typeUrl: `type.googleapis.com/${any.typeUrl}` };
    expect(isAny(spelled, OptionsSchema)).toBe(true);
    expect(() => unpackAny(TaskExitSchema, any)).toThrow(
      'type url "containerd.runc.v1.Options" is not containerd.events.TaskExit: invalid argument',
    );
  });

  test("refuses bytes that do not fit", () => {
    const any = { typeUrl: "containerd.runc.v1.Options", value: new Uint8Array([0xff]) };
    expect(() => unpackAny(OptionsSchema, any)).toThrow("decode containerd.runc.v1.Options");
  });

  test("an Any keeps its bytes, unknown fields too, through a message", () => {
    const value = new Uint8Array([0x98, 0x06, 0x01, 0x0a, 0x00]);
    const any = create(AnySchema, { typeUrl: "x.Y", value });
    expect(fromBinary(AnySchema, toBinary(AnySchema, any)).value).toEqual(value);
  });

  test("tells JSON types and unknown ones apart", async () => {
    const spec = await unpackAnything({ typeUrl: JsonTypeUrl.spec, value: encodeText('{"ociVersion":"1.1.0"}') });
    expect(spec).toEqual({ kind: "json", text: '{"ociVersion":"1.1.0"}' });
    expect(await unpackAnything({ typeUrl: "no.Such", value: new Uint8Array() })).toEqual({ kind: "unknown" });
  });
});

describe("messageToGoJson()", () => {
  // The texts are what Go's ctr printed for such events.
  test("prints an exit as ctr events does", () => {
    const message = create(TaskExitSchema, {
      containerId: "r1",
      id: "r1",
      pid: 6655,
      exitStatus: 3,
      exitedAt: { seconds: 1795233071n, nanos: 827348020 },
    });
    expect(messageToGoJson(TaskExitSchema, message)).toBe(
      '{"container_id":"r1","id":"r1","pid":6655,"exit_status":3,"exited_at":{"seconds":1795233071,"nanos":827348020}}',
    );
  });

  test("prints nested messages, lists and an empty Any value", () => {
    const created = create(ContainerCreateSchema, {
      id: "r1",
      image: "ghcr.io/containerd/busybox:1.36",
      runtime: { name: "io.containerd.runc.v2", options: { typeUrl: "containerd.runc.v1.Options" } },
    });
    expect(messageToGoJson(ContainerCreateSchema, created)).toBe(
      '{"id":"r1","image":"ghcr.io/containerd/busybox:1.36","runtime":{"name":"io.containerd.runc.v2","options":{"type_url":"containerd.runc.v1.Options"}}}',
    );
    const task = create(TaskCreateSchema, {
      containerId: "r1",
      rootfs: [{ type: "overlay", source: "overlay", options: ["index=off", "a<b"] }],
      io: {},
      pid: 6655,
    });
    expect(messageToGoJson(TaskCreateSchema, task)).toBe(
      '{"container_id":"r1","rootfs":[{"type":"overlay","source":"overlay","options":["index=off","a\\u003cb"]}],"io":{},"pid":6655}',
    );
  });

  test("prints 64-bit integers as numbers and floats as Go does", () => {
    const metrics = create(MetricsSchema, {
      memory: { usage: 18446744073709551615n, psi: { some: { avg10: 0.5, total: 1n } } },
    });
    expect(messageToGoJson(MetricsSchema, metrics)).toBe(
      '{"memory":{"usage":18446744073709551615,"psi":{"some":{"avg10":0.5,"total":1}}}}',
    );
  });

  test("anyToGoJson() decodes by type, keeps JSON text and refuses the unknown", async () => {
    const exit = packAny(TaskExitSchema, create(TaskExitSchema, { id: "<x>" }));
    expect(await anyToGoJson(exit)).toBe('{"id":"\\u003cx\\u003e"}');
    const process = { typeUrl: JsonTypeUrl.process, value: encodeText('{"args":["a&b"],"n":18446744073709551615}') };
    expect(await anyToGoJson(process)).toBe('{"args":["a\\u0026b"],"n":18446744073709551615}');
    const failed = await anyToGoJson({ typeUrl: "no.Such", value: new Uint8Array() }).catch((e: unknown) => e);
    expect(failed).toMatchObject({ errorClass: "not-found", message: "type with url no.Such: not found" });
  });
});
