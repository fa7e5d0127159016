import { connect as connectNet, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { type ConnectTarget, dialError } from "./bun-channel.ts";
import type { ByteChannel, ChannelHandler } from "./byte-channel.ts";

/** Bytes a socket takes ahead of the kernel; from there on `write` takes nothing until it has drained. */
const HIGH_WATER = 256 << 10;

/** A socket of node:net or node:tls as {@link ByteChannel}. */
class NodeChannel implements ByteChannel {
  readonly peer = {};
  readonly #socket: Socket;

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  start(handler: ChannelHandler): void {
    const socket = this.#socket;
    let cause: Error | undefined;
    socket.on("data", (bytes) => {
      if (typeof bytes !== "string") handler.data(bytes);
    });
    socket.on("drain", () => handler.drained());
    socket.on("error", (error) => {
      cause = error;
    });
    socket.once("close", () => handler.closed(cause));
    socket.once("end", () => socket.end());
  }

  write(bytes: Uint8Array): number {
    const room = HIGH_WATER - this.#socket.writableLength;
    if (room <= 0 || this.#socket.destroyed) return 0;
    const taken = Math.min(room, bytes.length);
    // The socket keeps what it is given until the kernel has it.
    this.#socket.write(Buffer.from(bytes.subarray(0, taken)));
    return taken;
  }

  end(): void {
    this.#socket.end();
  }

  destroy(): void {
    this.#socket.destroy();
  }
}

/** @throws unavailable when nobody answers there, or not in HTTP/2. */
export async function connectNode(target: ConnectTarget): Promise<ByteChannel> {
  const socket = open(target);
  socket.setNoDelay(true);
  return new Promise((resolve, reject) => {
    const failed = (error: Error): void => {
      socket.destroy();
      reject(dialError(target, error));
    };
    socket.once("error", failed);
    socket.once(target.kind === "tcp" && target.tls !== undefined ? "secureConnect" : "connect", () => {
      socket.off("error", failed);
      resolve(new NodeChannel(socket));
    });
  });
}

function open(target: ConnectTarget): Socket {
  if (target.kind === "unix") {
    return connectNet({ path: target.path.startsWith("@") ? `\0${target.path.slice(1)}` : target.path });
  }
  const { host, port } = target;
  if (target.tls === undefined) return connectNet({ host, port });
  const { ca, cert, key, serverName, rejectUnauthorized } = target.tls;
  return connectTls({
    host,
    port,
    ALPNProtocols: ["h2"],
    ...(pem(ca) === undefined ? {} : { ca: pem(ca) }),
    ...(pem(cert) === undefined ? {} : { cert: pem(cert) }),
    ...(pem(key) === undefined ? {} : { key: pem(key) }),
    ...(serverName === undefined ? {} : { servername: serverName }),
    ...(rejectUnauthorized === undefined ? {} : { rejectUnauthorized }),
  });
}

/** PEM text of an option; files are Bun's own and lists are not needed here. */
function pem(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  return value instanceof Uint8Array ? Buffer.from(value).toString() : undefined;
}
