import type { RequestContext } from "@stevedore/base";
import type { SandboxController, Snapshotter } from "@stevedore/core";
import { createGrpcTransport } from "@stevedore/wire/grpc/client";
import type { Client, DaemonVersion } from "./client.ts";
import { callOptions, lazyClient } from "./proxy/call.ts";
import { containersProxy } from "./proxy/containers.ts";
import { contentProxy } from "./proxy/content.ts";
import { diffProxy } from "./proxy/diff.ts";
import { eventLogProxy } from "./proxy/event-log.ts";
import { eventsProxy } from "./proxy/events.ts";
import { imagesProxy } from "./proxy/images.ts";
import { introspectionProxy } from "./proxy/introspection.ts";
import { leasesProxy } from "./proxy/leases.ts";
import { namespacesProxy } from "./proxy/namespaces.ts";
import { sandboxControllerProxy, sandboxesProxy } from "./proxy/sandboxes.ts";
import { snapshotterProxy } from "./proxy/snapshots.ts";
import { tasksProxy } from "./proxy/tasks.ts";
import { transferProxy } from "./proxy/transfer.ts";

/** Where a daemon is and how long to try. */
export interface ConnectOptions {
  /** Path of the daemon's socket (with or without `unix://`), or `tcp://host:port`. */
  readonly address: string;
  /** Milliseconds for making the connection. Default 10 s, as containerd's clients. */
  readonly connectTimeoutMs?: number;
}

/** What containerd's Go client waits for a daemon. */
const DEFAULT_CONNECT_TIMEOUT_MS = 10_000;

/** The snapshotter of a daemon that is told none. */
const DEFAULT_SNAPSHOTTER = "overlayfs";

/** A client of the daemon at an address. Nothing connects before the first call. */
export function connectClient(options: ConnectOptions): Client {
  const transport = createGrpcTransport({
    address: options.address,
    connectTimeoutMs: options.connectTimeoutMs ?? DEFAULT_CONNECT_TIMEOUT_MS,
  });
  const versions = lazyClient(
    transport,
    async () => (await import("@stevedore/wire/gen/light/containerd/services/version/v1/version_pb")).Version,
  );
  return {
    containers: containersProxy(transport),
    content: contentProxy(transport),
    diff: diffProxy(transport),
    events: eventsProxy(transport),
    eventLog: eventLogProxy(transport),
    images: imagesProxy(transport),
    introspection: introspectionProxy(transport),
    leases: leasesProxy(transport),
    namespaces: namespacesProxy(transport),
    sandboxes: sandboxesProxy(transport),
    tasks: tasksProxy(transport),
    transfer: transferProxy(transport),
    sandboxController: (name: string): SandboxController => sandboxControllerProxy(transport, name),
    snapshotter: (name: string): Snapshotter => snapshotterProxy(transport, name === "" ? DEFAULT_SNAPSHOTTER : name),
    version: async (context: RequestContext): Promise<DaemonVersion> => {
      const { version, revision } = await (await versions()).version({}, callOptions(context));
      return { version, revision };
    },
    [Symbol.asyncDispose]: async () => transport.close(),
  };
}
