/** The largest message taken or sent, in bytes, before compression: containerd's default for its gRPC server. */
export const MAX_MESSAGE = 16 << 20;

/**
 * Bytes of request messages one connection may hold that no handler has taken, in bytes: sixteen of the largest. The
 * call that goes over it fails, its neighbours do not.
 */
export const MAX_BUFFERED = 16 * MAX_MESSAGE;

/** Connections of one server. Each costs a descriptor; the daemon's soft limit is far higher. */
export const MAX_CONNECTIONS = 16_384;

/** setTimeout's limit, about 24 days; a call that may take longer has no timer. */
export const MAX_TIMER_MS = 2 ** 31 - 1;

/** The last moment a Date can hold. */
export const MAX_DATE_MS = 8.64e15;

/** Calls of a client that wait for the server's stream limit. More fail at once. */
export const MAX_WAITING_CALLS = 32_768;
