import type * as Tls from "node:tls";
import { messageOf } from "@stevedore/base";
import { TransportError } from "./failure.ts";

/** How a server is verified and what it is shown. PEM texts, not paths. */
export interface TlsSettings {
  /** Authorities trusted beside the system's. */
  readonly ca?: readonly string[];
  /** Client certificates with their keys. */
  readonly client?: readonly ClientCertificate[];
  /** Whether any certificate is taken. */
  readonly skipVerify?: boolean;
}

/** One certificate to show, with its key. */
export interface ClientCertificate {
  readonly cert: string;
  readonly key: string;
}

/** What a server showed of itself. */
export interface ShownCertificate {
  /** Common name or organisation of whom it is for, and of who signed it. */
  readonly subject: string;
  readonly issuer: string;
  /** Milliseconds since 1970. */
  readonly validUntil: number;
}

const shown = new WeakMap<object, () => Tls.PeerCertificate>();

/** Remembers how to ask a socket for its server's certificate; reading it costs, and few ask. */
export function rememberCertificate(socket: Tls.TLSSocket): void {
  shown.set(socket, () => socket.getPeerCertificate());
}

/** The certificate of a socket's server; undefined without TLS. */
export function certificateOf(socket: object): ShownCertificate | undefined {
  const found = shown.get(socket)?.();
  if (found === undefined || typeof found.valid_to !== "string") return undefined;
  const { subject, issuer, valid_to: until } = found;
  return { subject: nameOf(subject), issuer: nameOf(issuer), validUntil: Date.parse(until) };
}

function nameOf(name: Tls.Certificate | undefined): string {
  const [first] = [name?.CN, name?.O].flat();
  return first ?? "";
}

/** Contexts by what they hold: making one costs 3 to 12 ms with the system's authorities. */
const contexts = new Map<string, Tls.SecureContext>();
const MAX_CONTEXTS = 64;

/** @throws TransportError of step `tls` for PEM that does not parse. */
export async function secureContextOf(settings: TlsSettings): Promise<Tls.SecureContext> {
  const { ca = [], client = [] } = settings;
  const key = tlsIdentity({ ca, client });
  const known = contexts.get(key);
  if (known !== undefined) return known;
  const tls = await import("node:tls");
  try {
    const made = tls.createSecureContext({
      ca: [...systemAuthorities(tls), ...ca].join("\n"),
      ...(client.length === 0 ? {} : { cert: client.map(({ cert }) => cert), key: client.map((pair) => pair.key) }),
    });
    if (contexts.size >= MAX_CONTEXTS) contexts.clear();
    contexts.set(key, made);
    return made;
  } catch (error) {
    // The library's words tell kinds of PEM, not their contents.
    throw new TransportError("tls", `the configured certificates cannot be used: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

/** The system's store, as Go uses it; the runtime's own when the system has none. */
function systemAuthorities(tls: typeof Tls): readonly string[] {
  // Node has it from 22.15 on.
  const system = typeof tls.getCACertificates === "function" ? tls.getCACertificates("system") : [];
  return system.length > 0 ? system : tls.rootCertificates;
}

/** A text that is equal for settings that may share connections. */
export function tlsIdentity(settings: TlsSettings): string {
  const { ca = [], client = [], skipVerify = false } = settings;
  if (ca.length === 0 && client.length === 0) return skipVerify ? "skip" : "";
  return JSON.stringify([ca, client, skipVerify]);
}
