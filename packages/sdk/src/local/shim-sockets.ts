/** Where the sockets of a shim are, for people who talk to one past its daemon. */
import { createHash } from "node:crypto";
import { dirname, join } from "node:path";

/** Where shims have their sockets, whatever state folder their daemon has; the default state folder of containerd plus `s`. */
const SOCKET_FOLDER = "/run/containerd/s";

/** Where shims had their abstract sockets before containerd 1.4. */
const OLD_SOCKET_FOLDER = "/containerd-shim";

/** Which shim. At least one of `id` and `address` is not empty. */
export interface ShimName {
  /** Id of the container or of the group that shares the shim; "" when the address says it. */
  readonly id: string;
  /** Path of the shim's socket, with or without `unix://`; "" to compute it from the rest. */
  readonly address: string;
  /** gRPC address of the daemon that started the shim, spelled as the daemon was told it. */
  readonly daemonAddress: string;
  readonly namespace: string;
}

/** The sockets a shim may listen on, in the order they are tried; a leading `@` names an abstract one. */
export function shimSockets(name: ShimName): readonly string[] {
  const { id, address, namespace } = name;
  const given = address === "" ? [] : [pathOf(address)];
  if (id === "") return given;
  return [...given, `${SOCKET_FOLDER}/${digest(name)}`, `@${join(OLD_SOCKET_FOLDER, namespace, id, "shim.sock")}`];
}

/**
 * The sockets at which a shim that was started with -debug may serve profiles, in the order they are tried. They are named
 * after the id; an address only tells in which folder to look first.
 */
export function shimDebugSockets(name: ShimName): readonly [string, ...string[]] {
  const file = digest(name, "debug");
  const usual = `${SOCKET_FOLDER}/${file}`;
  return name.address === "" ? [usual] : [join(dirname(pathOf(name.address)), file), usual];
}

function pathOf(address: string): string {
  return address.startsWith("unix://") ? address.slice("unix://".length) : address;
}

function digest({ daemonAddress, namespace, id }: ShimName, ...more: readonly string[]): string {
  return createHash("sha256")
    .update(join(daemonAddress, namespace, id, ...more))
    .digest("hex");
}
