import { expect, test } from "bun:test";
import { create, toBinary } from "@bufbuild/protobuf";
import { AnySchema } from "@bufbuild/protobuf/wkt";
import { BootstrapParamsSchema, LogLevel } from "@stevedore/wire/gen/containerd/runtime/bootstrap/v1/bootstrap_pb";
import { socketAddress, socketPath } from "./socket-address.ts";
import { readBootstrap } from "./start.ts";

const options = { typeUrl: "containerd.runc.v1.Options", value: new Uint8Array([8, 1]) };

test("readBootstrap() takes parameters only when they name our own id (F26)", async () => {
  const params = toBinary(
    BootstrapParamsSchema,
    create(BootstrapParamsSchema, {
      instanceId: "r1",
      namespace: "default",
      logLevel: LogLevel.DEBUG,
      containerdTtrpcAddress: "/t.sock",
      containerdGrpcAddress: "/g.sock",
      containerdBinary: "/bin/containerd",
      extensions: [{ value: options }],
      socketDir: "/run/s",
    }),
  );
  expect(await readBootstrap(params, "r1")).toMatchObject({
    kind: "params",
    debug: true,
    ttrpcAddress: "/t.sock",
    grpcAddress: "/g.sock",
    publishBinary: "/bin/containerd",
    socketDir: "/run/s",
    options,
  });
  expect((await readBootstrap(params, "r2")).kind).toBe("older");
});

test("readBootstrap() takes an Any or nothing from older daemons", async () => {
  expect(await readBootstrap(new Uint8Array(), "r1")).toEqual({ kind: "older", options: undefined });
  const any = toBinary(AnySchema, create(AnySchema, options));
  expect(await readBootstrap(any, "r1")).toMatchObject({ kind: "older", options });
  // A value that is no UTF-8 would be no namespace, were these parameters.
  const binary = toBinary(AnySchema, create(AnySchema, { ...options, value: new Uint8Array([0xff, 0xfe]) }));
  expect(await readBootstrap(binary, "r1")).toMatchObject({ kind: "older" });
  await expect(readBootstrap(new Uint8Array([0xff]), "r1")).rejects.toThrow("read runtime options from stdin");
});

test("socketAddress() is the peer's: sha256 of daemon address, namespace and id", () => {
  const name = {
    dir: "/run/containerd/s",
    daemonAddress: "/run/containerd/containerd.sock",
    namespace: "default",
    id: "r1",
  };
  const address = "unix:///run/containerd/s/cb61a16f111fef88476e4ac183c8a8e4fa6afdc70abeab338c73522193f4de23";
  expect(socketAddress(name)).toBe(address);
  expect(socketPath(address)).toBe(address.slice("unix://".length));
  expect(socketPath("/containerd-shim/a")).toBe("@/containerd-shim/a");
});
