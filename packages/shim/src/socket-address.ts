import { createHash } from "node:crypto";
import { join } from "node:path";

/** Where shim sockets live unless the daemon names another folder; the peer's default state folder plus `s`. */
export const DEFAULT_SOCKET_DIR = "/run/containerd/s";

const UNIX = "unix://";

/** What a shim's socket path is made from. */
export interface SocketName {
  /** Folder of the socket. */
  readonly dir: string;
  /** The daemon's gRPC address, so that two daemons' containers of one name do not meet. */
  readonly daemonAddress: string;
  readonly namespace: string;
  /** Container id, or the id of the group of containers that share a shim. */
  readonly id: string;
  /** The second socket of a shim that is started with -debug. */
  readonly debug?: boolean;
}

/** The address of a shim: `unix://<dir>/<sha256 of daemon address, namespace and id>`, as the peer computes it. */
export function socketAddress(name: SocketName): string {
  const parts = [name.daemonAddress, name.namespace, name.id, ...(name.debug === true ? ["debug"] : [])];
  const digest = createHash("sha256")
    .update(join(...parts))
    .digest("hex");
  return `${UNIX}${name.dir}/${digest}`;
}

/** The path (or `@name` of an abstract socket) behind an address, as connectUnix takes it. */
export function socketPath(address: string): string {
  return address.startsWith(UNIX) ? address.slice(UNIX.length) : `@${address}`;
}
