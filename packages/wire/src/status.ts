import { decodeStatus, encodeStatus, type Status } from "@stevedore/ttrpc/status";

/**
 * The table error class ⇄ status code, for gRPC and ttrpc alike. It stands in the ttrpc package, which shims load
 * without any of this one; this is its door for everybody else.
 */
export {
  Code,
  classOf,
  codeOf,
  decodeStatus,
  encodeStatus,
  errorOf,
  OK,
  type Status,
  statusOf,
} from "@stevedore/ttrpc/status";

/** The trailer that carries a whole google.rpc.Status, base64 without padding on the wire. */
export const STATUS_DETAILS_KEY = "grpc-status-details-bin";

/** The value of {@link STATUS_DETAILS_KEY}; undefined when there are no details to send. */
export function statusDetailsBin(status: Status): string | undefined {
  if (status.details.length === 0) return undefined;
  return Buffer.from(encodeStatus(status)).toString("base64").replace(/=+$/, "");
}

/**
 * The status of a gRPC answer: code and message from the plain trailers, details from the binary one when it is there,
 * can be read and has the same code.
 */
export function statusFromTrailers(code: number, message: string, detailsBin: string | undefined): Status {
  if (detailsBin !== undefined) {
    try {
      const full = decodeStatus(Buffer.from(detailsBin, "base64"));
      if (full.code === code) return { code, message: message === "" ? full.message : message, details: full.details };
    } catch {
      // A peer's malformed details take nothing from its code and message.
    }
  }
  return { code, message, details: [] };
}
