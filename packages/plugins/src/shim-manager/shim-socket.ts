import { type Logger, messageOf } from "@stevedore/base";
import { isListening, removeStaleSocket } from "@stevedore/os/socket";

const UNIX = "unix://";

/** Where the socket of a shim's address lies in the file system; undefined for an abstract one, or none. */
export function socketFile(address: string | undefined): string | undefined {
  const path = address?.startsWith(UNIX) === true ? address.slice(UNIX.length) : address;
  return path?.startsWith("/") === true ? path : undefined;
}

/** Whether something listens at a shim's address, abstract ones included. */
export function answers(address: string): boolean {
  return isListening(socketFile(address) ?? `@${address}`);
}

/** Removes the socket that a shim which was killed has left; one that answers stays. Failing is logged: it is only litter. */
export function removeSocketLeft(address: string | undefined, log: Logger): void {
  const path = socketFile(address);
  if (path === undefined) return;
  try {
    if (!isListening(path)) removeStaleSocket(path);
  } catch (error) {
    log.debug("remove socket of shim", { path, error: messageOf(error) });
  }
}
