/** Numbers of RFC 9113 and the errors that carry them. */

/** Frame types, RFC 9113 section 6. */
export const FrameType = {
  data: 0,
  headers: 1,
  priority: 2,
  rstStream: 3,
  settings: 4,
  pushPromise: 5,
  ping: 6,
  goaway: 7,
  windowUpdate: 8,
  continuation: 9,
} as const;

/** Frame flags. `endStream` of DATA and HEADERS is the bit that SETTINGS and PING call `ack`. */
export const Flag = { endStream: 0x1, ack: 0x1, endHeaders: 0x4, padded: 0x8, priority: 0x20 } as const;

/** Identifiers of settings, RFC 9113 section 6.5.2. */
export const Setting = {
  headerTableSize: 1,
  enablePush: 2,
  maxConcurrentStreams: 3,
  initialWindowSize: 4,
  maxFrameSize: 5,
  maxHeaderListSize: 6,
} as const;

/** Error codes, RFC 9113 section 7. */
export const ErrorCode = {
  noError: 0,
  protocolError: 1,
  internalError: 2,
  flowControlError: 3,
  settingsTimeout: 4,
  streamClosed: 5,
  frameSizeError: 6,
  refusedStream: 7,
  cancel: 8,
  compressionError: 9,
  connectError: 10,
  enhanceYourCalm: 11,
  inadequateSecurity: 12,
  http11Required: 13,
} as const;

const NAMES: ReadonlyMap<number, string> = new Map([
  [ErrorCode.noError, "NO_ERROR"],
  [ErrorCode.protocolError, "PROTOCOL_ERROR"],
  [ErrorCode.internalError, "INTERNAL_ERROR"],
  [ErrorCode.flowControlError, "FLOW_CONTROL_ERROR"],
  [ErrorCode.settingsTimeout, "SETTINGS_TIMEOUT"],
  [ErrorCode.streamClosed, "STREAM_CLOSED"],
  [ErrorCode.frameSizeError, "FRAME_SIZE_ERROR"],
  [ErrorCode.refusedStream, "REFUSED_STREAM"],
  [ErrorCode.cancel, "CANCEL"],
  [ErrorCode.compressionError, "COMPRESSION_ERROR"],
  [ErrorCode.connectError, "CONNECT_ERROR"],
  [ErrorCode.enhanceYourCalm, "ENHANCE_YOUR_CALM"],
  [ErrorCode.inadequateSecurity, "INADEQUATE_SECURITY"],
  [ErrorCode.http11Required, "HTTP_1_1_REQUIRED"],
]);

/** The RFC's name of an error code; unknown codes in hex. */
export function errorCodeName(code: number): string {
  return NAMES.get(code) ?? `unknown error code 0x${code.toString(16)}`;
}

/** What a client sends first, RFC 9113 section 3.4. */
export const PREFACE = new TextEncoder().encode("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

/** The peer broke the protocol in a way that ends the connection. */
export class ConnectionError extends Error {
  override readonly name = "ConnectionError";
  readonly code: number;

  constructor(code: number, message: string) {
    super(`${errorCodeName(code)}: ${message}`);
    this.code = code;
  }
}

/** The values both sides start with, RFC 9113 section 6.5.2. */
export const DEFAULT_WINDOW = 65_535;
export const DEFAULT_MAX_FRAME = 16_384;
export const DEFAULT_HEADER_TABLE = 4096;
export const MAX_WINDOW = 2 ** 31 - 1;
/** The largest value SETTINGS_MAX_FRAME_SIZE may have. */
export const LARGEST_MAX_FRAME = 2 ** 24 - 1;
export const FRAME_HEADER = 9;

/** One header: the name in lower case and its value. Shared between calls, never changed. */
export type HeaderField = readonly [name: string, value: string];
