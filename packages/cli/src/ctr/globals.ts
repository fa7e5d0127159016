import type { RequestContext } from "@stevedore/base";
import type { Client } from "@stevedore/sdk/client";

/** A connected client and the context its calls are made in. Dispose it when the command ends. */
export interface Session extends AsyncDisposable {
  readonly client: Client;
  readonly context: RequestContext;
}

/** What every command of ctr gets from the global flags. */
export interface CtrGlobals {
  readonly address: string;
  readonly namespace: string;
  readonly debug: boolean;
  /** Milliseconds for connecting; 0: the default. */
  readonly connectTimeoutMs: number;
  /** Opens a session; nothing connects before its first call. */
  readonly connect: () => Promise<Session>;
}
