// The suites of the stores once more, with everything between a client and a store in the way: the SDK's resources or a proxy plugin,
// messages as bytes, the services, and the metadata store. What a caller sees must be the same.
import { createLogger } from "@stevedore/base";
import { containersSuite } from "@stevedore/core/containers-suite";
import { contentSuite } from "@stevedore/core/content-suite";
import { imagesSuite } from "@stevedore/core/images-suite";
import { leasesSuite } from "@stevedore/core/leases-suite";
import { namespacesSuite } from "@stevedore/core/namespaces-suite";
import { inDefault, type StoresFixture } from "@stevedore/core/stores-fixture";
import { createEventExchange } from "@stevedore/plugins/events/impl";
import { temporaryStore } from "@stevedore/plugins/metadata/fixture";
import { createProxyContentStore } from "@stevedore/plugins/proxy/index";
import { containersProxy } from "@stevedore/sdk/proxy/containers";
import { contentProxy } from "@stevedore/sdk/proxy/content";
import { imagesProxy } from "@stevedore/sdk/proxy/images";
import { leasesProxy } from "@stevedore/sdk/proxy/leases";
import { namespacesProxy } from "@stevedore/sdk/proxy/namespaces";
import { containersService } from "@stevedore/services/containers";
import { contentService } from "@stevedore/services/content";
import { imagesService } from "@stevedore/services/images";
import { leasesService } from "@stevedore/services/leases";
import { namespacesService } from "@stevedore/services/namespaces";
import { Containers } from "@stevedore/wire/gen/containerd/services/containers/v1/containers_pb";
import { Content } from "@stevedore/wire/gen/containerd/services/content/v1/content_pb";
import { Images } from "@stevedore/wire/gen/containerd/services/images/v1/images_pb";
import { Leases } from "@stevedore/wire/gen/containerd/services/leases/v1/leases_pb";
import { Namespaces } from "@stevedore/wire/gen/containerd/services/namespaces/v1/namespace_pb";
import { memoryTransport, Router, type Transport } from "@stevedore/wire/rpc/index";

async function served(): Promise<AsyncDisposable & { readonly transport: Transport }> {
  const store = await temporaryStore();
  const events = createEventExchange({ eventField: () => undefined, log: createLogger() });
  const router = new Router()
    .service(Containers, containersService({ containers: store.containers, events }))
    .service(Content, contentService({ content: store.content, events }))
    .service(Images, imagesService({ images: store.images, events }))
    .service(Leases, leasesService({ leases: store.leases }))
    .service(Namespaces, namespacesService({ namespaces: store.namespaces, events }));
  const transport = memoryTransport(router);
  return {
    transport,
    [Symbol.asyncDispose]: async () => {
      await transport.close();
      await store[Symbol.asyncDispose]();
    },
  };
}

async function client(): Promise<StoresFixture> {
  const { transport, [Symbol.asyncDispose]: dispose } = await served();
  return {
    namespaces: namespacesProxy(transport),
    images: imagesProxy(transport),
    containers: containersProxy(transport),
    leases: leasesProxy(transport),
    content: contentProxy(transport),
    [Symbol.asyncDispose]: dispose,
  };
}

const nameless = "Image.Name required: invalid argument";
imagesSuite("SDK, through the wire", client, { create: nameless, update: nameless });
containersSuite("SDK, through the wire", client);
leasesSuite("SDK, through the wire", client, { makesIds: true });
namespacesSuite("SDK, through the wire", client, { unmadeAreEmpty: true });

for (const [name, make] of [
  ["SDK, through the wire", (transport: Transport) => contentProxy(transport)],
  ["proxy plugin", (transport: Transport) => createProxyContentStore({ transport })],
] as const) {
  contentSuite(
    name,
    async () => {
      const { transport, [Symbol.asyncDispose]: dispose } = await served();
      return { store: make(transport), context: inDefault, [Symbol.asyncDispose]: dispose };
    },
    {
      labels: true,
      missing: (digest) => `content digest ${digest}: not found`,
      withoutRef: "first message must have a reference: invalid argument",
    },
  );
}
