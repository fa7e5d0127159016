import { connectUnix, Client as TtrpcClient } from "@stevedore/ttrpc";
import type { Transport } from "./rpc/types.ts";
import { ttrpcTransport } from "./ttrpc.ts";

/**
 * A ttrpc transport to a unix socket, for rooms that know wire but not ttrpc. The caller closes it.
 *
 * @param path a leading NUL or `@` names an abstract socket.
 * @throws unavailable when nobody listens there; canceled when the signal ends first.
 */
export async function dialTtrpc(path: string, signal: AbortSignal): Promise<Transport> {
  return ttrpcTransport(new TtrpcClient(await connectUnix(path, { signal })));
}
