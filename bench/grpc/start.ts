// What a command line does to print the server's version: the program whose start the benchmark measures.
import { createGrpcTransport } from "@stevedore/wire/grpc/client";
import { createClient } from "@stevedore/wire/rpc/client";

async function main(): Promise<void> {
  const transport = createGrpcTransport({ address: process.argv[2] ?? "" });
  const { Version } = await import("@stevedore/wire/gen/light/containerd/services/version/v1/version_pb");
  const { version } = await createClient(Version, transport).version({});
  // process.stdout costs seven milliseconds at its first use.
  await Bun.write(Bun.stdout, `${version}\n`);
  await transport.close();
}

void main();
