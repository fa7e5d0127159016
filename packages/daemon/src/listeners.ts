/** The sockets of the daemon: gRPC on a unix socket, gRPC on TCP with TLS, ttrpc for shims. */
import { chmod, chown, mkdir, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import { classified, type Logger, messageOf } from "@stevedore/base";
import { isListening, peerCredentials, removeStaleSocket } from "@stevedore/os/socket";
import { listenUnix, Server as TtrpcServer } from "@stevedore/ttrpc";
import { type CallObserver, createGrpcServer, type GrpcServer, observeWith } from "@stevedore/wire/grpc/server";
import type { Router } from "@stevedore/wire/rpc/index";
import { registerRouter } from "@stevedore/wire/ttrpc";

/** containerd's mode of its sockets: their owner and group. */
const SOCKET_MODE = 0o660;

export interface UnixListenerOptions {
  readonly router: Router;
  readonly log: Logger;
  readonly address: string;
  readonly uid: number;
  readonly gid: number;
}

/** What a gRPC server has beside where it listens. */
export interface GrpcOptions {
  /** Who sees its calls. */
  readonly observers: readonly CallObserver[];
  /** Bytes of the largest message taken and sent. */
  readonly maxReceive: number;
  readonly maxSend: number;
}

/** @throws failed-precondition when another process answers on the socket */
function refuseUsedSocket(path: string): void {
  if (isListening(path)) {
    throw classified("failed-precondition", `listen on ${path}: another process answers there: failed precondition`);
  }
  // What is no socket is not ours to remove.
  removeStaleSocket(path);
}

/** Serves gRPC on a unix socket. Stop the server to remove the socket. */
export async function serveGrpc(options: UnixListenerOptions & GrpcOptions): Promise<GrpcServer> {
  const server = grpcServer(options);
  refuseUsedSocket(options.address);
  await server.serveUnix(options.address, { mode: SOCKET_MODE, uid: options.uid, gid: options.gid });
  options.log.info("serving...", { address: options.address });
  return server;
}

function grpcServer(options: GrpcOptions & { readonly router: Router; readonly log: Logger }): GrpcServer {
  const observer = observeWith(options.observers);
  return createGrpcServer({
    router: options.router,
    log: options.log,
    credentials: peerCredentials,
    ...(observer === undefined ? {} : { observer }),
    limits: { maxReceiveBytes: options.maxReceive, maxSendBytes: options.maxSend },
  });
}

export interface TcpOptions extends GrpcOptions {
  readonly router: Router;
  readonly log: Logger;
  /** `host:port`. */
  readonly address: string;
  /** Paths of PEM files, "" for none. With `ca`, clients must show a certificate it signed. */
  readonly tls: { readonly ca: string; readonly cert: string; readonly key: string };
}

/** Serves gRPC on TCP. Without a certificate the port speaks plain text, as the peer's does. */
export async function serveGrpcTcp(options: TcpOptions): Promise<GrpcServer> {
  const at = options.address.lastIndexOf(":");
  const port = Number(options.address.slice(at + 1));
  if (at < 0 || !Number.isInteger(port) || port < 0 || port > 65_535) {
    throw classified("invalid-argument", `listen on tcp address ${JSON.stringify(options.address)}: want host:port`);
  }
  const host = options.address.slice(0, at).replace(/^\[(.*)\]$/, "$1");
  const { ca, cert, key } = options.tls;
  if ((cert === "") !== (key === "")) {
    throw classified(
      "invalid-argument",
      "listen on tcp: tls_cert and tls_key must be given together: invalid argument",
    );
  }
  const server = grpcServer(options);
  await server.serveTcp({
    host: host === "" ? "0.0.0.0" : host,
    port,
    ...(cert === ""
      ? {}
      : {
          tls: {
            cert: Bun.file(cert),
            key: Bun.file(key),
            ...(ca === "" ? {} : { ca: Bun.file(ca), requestCert: true, rejectUnauthorized: true }),
          },
        }),
  });
  options.log.info("serving...", { address: options.address });
  return server;
}

/** Serves ttrpc on a unix socket, for shims. */
export async function serveTtrpc(options: UnixListenerOptions): Promise<AsyncDisposable> {
  const { address, log } = options;
  refuseUsedSocket(address);
  await mkdir(dirname(address), { recursive: true, mode: 0o770 });
  await unlink(address).catch(() => undefined);
  const server = new TtrpcServer({ log });
  registerRouter(server, options.router);
  const listener = listenUnix(address, { credentials: peerCredentials, accept: (carrier) => server.serve(carrier) });
  await chmod(address, SOCKET_MODE);
  await chown(address, options.uid, options.gid);
  log.info("serving...", { address });
  return {
    [Symbol.asyncDispose]: async () => {
      listener.stop();
      await server[Symbol.asyncDispose]();
      await unlink(address).catch((error: unknown) => log.debug("remove socket", { address, error: messageOf(error) }));
    },
  };
}
