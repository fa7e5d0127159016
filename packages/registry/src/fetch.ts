import { classified } from "@stevedore/base";
import { type Descriptor, digestOf, parseDigest, verified } from "@stevedore/oci";
import { BlobSource, kindOf, type ObjectKind, type Opened } from "./blob-source.ts";
import { allHostsFailed, HostError, type HostFailure, RegistryError } from "./failure.ts";
import { endpointOf, type RegistryHost } from "./hosts/types.ts";
import { TransportError } from "./http/failure.ts";
import { headerOf } from "./http/head.ts";
import { acceptFor, apiPath, type ImageName, namespaceQuery, scopeOf } from "./image-name.ts";
import { overHosts, withCapabilities } from "./over-hosts.ts";
import { collectFailure, plainFailure, send } from "./request.ts";
import { mediaTypeOf } from "./resolve.ts";
import { pause, pauseMs } from "./retry.ts";
import { known } from "./schemes.ts";
import type { Session } from "./session.ts";

/** How something is fetched. */
export interface FetchOptions {
  /** Ends the fetch; the body then fails with the signal's reason. */
  readonly signal?: AbortSignal;
  /** First byte wanted: what a broken fetch of an earlier process left is not fetched again. */
  readonly offset?: number;
  /** Endpoints that are not asked: they served wrong content before. */
  readonly exclude?: ReadonlySet<string>;
  /** Whether the body checks its digest while it passes. Only for whole fetches; the content store checks by itself. */
  readonly verify?: boolean;
}

/** Content that is coming. */
export interface Fetched {
  /** From the offset on, never beyond the descriptor's size. To be read once, to its end, or left by leaving the loop. */
  readonly body: AsyncIterable<Uint8Array>;
  /** Bytes of the whole, or -1 when neither descriptor nor server told. */
  readonly size: number;
  /** The endpoint that answered first; a broken body may go on from another. */
  readonly endpoint: string;
  /** What the server called it. */
  readonly contentType: string;
  /** Lets go of a body that nobody will read (further). Not while a read is under way: that is what signals are for. */
  cancel(): Promise<void>;
}

/** The hosts a fetch may use. */
export async function pullHosts(
  session: Session,
  name: ImageName,
  exclude: ReadonlySet<string> = new Set(),
): Promise<readonly RegistryHost[]> {
  const hosts = withCapabilities(await session.hosts.hosts(name.namespace), ["pull"]);
  return hosts.filter((host) => !exclude.has(endpointOf(known(session, host))));
}

const NEVER = new AbortController().signal;

/**
 * Opens a descriptor's content.
 *
 * A body that breaks is resumed where it broke, at another host first if there is one; it fails only after
 * `limits.attempts` tries without progress.
 *
 * @throws RegistryError; out-of-range for an offset beyond the size
 */
export async function fetchDescriptor(
  session: Session,
  name: ImageName,
  request: { readonly descriptor: Descriptor; readonly options: FetchOptions },
): Promise<Fetched> {
  const { descriptor, options } = request;
  const { signal = NEVER, offset = 0 } = options;
  parseDigest(descriptor.digest);
  const source = new BlobSource({
    session,
    name,
    descriptor,
    kind: kindOf(descriptor.mediaType),
    hosts: await pullHosts(session, name, options.exclude),
  });
  if (offset < 0 || offset > source.size) {
    throw classified("out-of-range", `${source.doing}: offset ${offset} is not within its ${descriptor.size} bytes`);
  }
  if (offset === source.size) {
    return { body: nothing(), size: descriptor.size, endpoint: "", contentType: "", cancel: async () => undefined };
  }
  const first = await source.open(offset, undefined, signal);
  const body = resumed({ session, source, from: offset, end: () => source.size, first, signal });
  return {
    body: options.verify === true && offset === 0 ? verified(body, expectedOf(descriptor)) : body,
    size: descriptor.size,
    endpoint: endpointOf(first.host),
    contentType: first.contentType,
    cancel: async () => cancelled(body, first),
  };
}

async function cancelled(body: AsyncGenerator<Uint8Array, void, undefined>, first: Opened): Promise<void> {
  await body.return();
  // A generator that was never started does nothing at its return.
  await first.discard();
}

function expectedOf(descriptor: Descriptor): { readonly digest: string; readonly size?: number } {
  return { digest: descriptor.digest, ...(descriptor.size < 0 ? {} : { size: descriptor.size }) };
}

async function* nothing(): AsyncGenerator<Uint8Array, void, undefined> {
  // There is nothing to yield.
}

/** A run of bytes that is read to its end whatever breaks. */
export interface ResumedRun {
  readonly session: Session;
  readonly source: BlobSource;
  readonly from: number;
  /** Where the run ends (exclusive). Asked for each chunk: it may grow while it is read. */
  readonly end: () => number;
  /** A body that is already open at `from`. */
  readonly first?: Opened | undefined;
  readonly signal: AbortSignal;
  /** Told each body that is opened. */
  readonly onOpened?: (opened: Opened) => void;
}

/** The bytes of a run, in order. @throws RegistryError; the signal's reason */
export async function* resumed(run: ResumedRun): AsyncGenerator<Uint8Array, void, undefined> {
  const { session, source, signal } = run;
  const { limits, random } = session;
  const failures: HostFailure[] = [];
  let at = run.from;
  let fruitless = 0;
  let next = run.first;
  for (let opens = 0; ; opens++) {
    const began = at;
    const opened = next ?? (await reopen(run, { at, fruitless }));
    next = undefined;
    run.onOpened?.(opened);
    let failure: HostFailure;
    try {
      for await (const chunk of opened.body) {
        const left = run.end() - at;
        const part = chunk.byteLength > left ? chunk.subarray(0, left) : chunk;
        at += part.byteLength;
        if (part.byteLength > 0) yield part;
        if (chunk.byteLength > left && run.end() === source.size) {
          // Framed without a length, so only now is it known to be another blob than was promised.
          throw new HostError(plainFailure(opened.host, `its content has more than ${source.size} bytes`, "data-loss"));
        }
        // The whole where a part was asked for, or more than the part: the rest is left unread.
        if (at === run.end() && at < source.size && (!opened.ranged || chunk.byteLength > left)) break;
      }
      if (at === run.end() || run.end() === Number.POSITIVE_INFINITY) return;
      failure = shortFailure(opened.host, `its content ended after ${at} of ${source.size} bytes`);
    } catch (error) {
      if (!(error instanceof TransportError) && !(error instanceof HostError)) throw error;
      failure = collectFailure(error, opened.host, signal);
      if (error instanceof HostError) throw allHostsFailed(source.doing, [failure]);
      // All is there; how the connection ended is of no matter.
      if (at === run.end()) return;
    }
    session.breakers.remember(endpointOf(opened.host), failure);
    source.brokeAt(opened.host);
    failures.push(failure);
    fruitless = at - began >= limits.stallBytes ? 1 : fruitless + 1;
    if (fruitless >= limits.attempts || opens >= limits.resumes)
      throw allHostsFailed(source.doing, lastOfEach(failures));
    session.log.info("registry fetch goes on after a broken body", { ...failure, offset: at });
    await pause(pauseMs(fruitless, limits, { random }), signal);
  }
}

/**
 * Opens a run at a place. Once bytes have come, hosts that serve nothing now are asked again for a while: a registry
 * that restarts must not cost the pull.
 */
async function reopen(run: ResumedRun, state: { readonly at: number; readonly fruitless: number }): Promise<Opened> {
  const { session, source, signal } = run;
  const { limits, random } = session;
  for (let failures = Math.max(1, state.fruitless); ; failures++) {
    try {
      return await source.open(state.at, run.end(), signal);
    } catch (error) {
      const gone = error instanceof RegistryError && error.errorClass === "unavailable";
      if (!gone || state.at === run.from || failures >= limits.attempts) throw error;
      session.log.info("registry fetch waits for its host", { reason: error.message, offset: state.at });
      await pause(pauseMs(failures, limits, { random }), signal);
    }
  }
}

function shortFailure(host: RegistryHost, reason: string): HostFailure {
  return { ...plainFailure(host, reason), transient: true };
}

/** A host that broke ten times is told once. */
function lastOfEach(failures: readonly HostFailure[]): readonly HostFailure[] {
  return [...new Map(failures.map((failure) => [failure.endpoint, failure])).values()];
}

/** Content asked for by its digest alone. */
export interface FetchedByDigest extends Fetched {
  /** With the media type that was given, or else the server's; size -1 when the server did not tell. */
  readonly descriptor: Descriptor;
}

/**
 * Opens content of which only the digest is known: as a blob, or else as a manifest.
 *
 * @throws RegistryError
 */
export async function fetchByDigest(
  session: Session,
  name: ImageName,
  request: { readonly digest: string; readonly mediaType?: string; readonly options: FetchOptions },
): Promise<FetchedByDigest> {
  const { digest, options } = request;
  const { signal = NEVER } = options;
  parseDigest(digest);
  const found = await overHosts(session, {
    doing: `fetch ${digest} of ${name.namespace}/${name.repository}`,
    hosts: await pullHosts(session, name, options.exclude),
    signal,
    work: async (host, attempts) => {
      const ask = async (kind: ObjectKind): Promise<Located> => {
        const head = await send(session, {
          host,
          namespace: name.namespace,
          method: "HEAD",
          path: apiPath(name, kind, digest),
          query: namespaceQuery(host, name.namespace),
          headers: [["Accept", acceptFor(kind, request.mediaType ?? "")]],
          scopes: [scopeOf(name.repository, "pull")],
          signal,
          attempts,
          verified: true,
        });
        const coded = headerOf(head.headers, "content-encoding") !== undefined;
        return { kind, size: coded ? -1 : (head.length ?? -1), contentType: mediaTypeOf(head) };
      };
      try {
        return await ask("blobs");
      } catch (error) {
        if (!(error instanceof HostError) || error.failure.status === undefined) throw error;
        return ask("manifests");
      }
    },
  });
  const descriptor: Descriptor = {
    mediaType: request.mediaType ?? (found.kind === "manifests" ? found.contentType : "application/octet-stream"),
    digest,
    size: found.size,
  };
  const source = new BlobSource({
    session,
    name,
    descriptor,
    kind: found.kind,
    hosts: await pullHosts(session, name, options.exclude),
  });
  const offset = options.offset ?? 0;
  if (offset > source.size)
    throw classified("out-of-range", `${source.doing}: offset ${offset} is beyond its ${found.size} bytes`);
  if (offset === source.size) {
    return {
      body: nothing(),
      size: found.size,
      endpoint: "",
      contentType: "",
      descriptor,
      cancel: async () => undefined,
    };
  }
  const first = await source.open(offset, undefined, signal);
  const body = resumed({ session, source, from: offset, end: () => source.size, first, signal });
  return {
    body: options.verify === true && offset === 0 ? verified(body, expectedOf(descriptor)) : body,
    size: found.size,
    endpoint: endpointOf(first.host),
    contentType: first.contentType,
    descriptor,
    cancel: async () => cancelled(body, first),
  };
}

interface Located {
  readonly kind: ObjectKind;
  readonly size: number;
  readonly contentType: string;
}

/**
 * Reads a small document whole and checks it. A host whose content does not have the digest is left for the next.
 *
 * @throws RegistryError; resource-exhausted when it is larger than `limits.manifestBytes`
 */
export async function fetchDocument(
  session: Session,
  name: ImageName,
  request: { readonly descriptor: Descriptor; readonly options: FetchOptions },
): Promise<Uint8Array> {
  const { descriptor, options } = request;
  const { signal = NEVER } = options;
  const { manifestBytes } = session.limits;
  const { algorithm } = parseDigest(descriptor.digest);
  const doing = `fetch ${descriptor.digest} of ${name.namespace}/${name.repository}`;
  if (descriptor.size > manifestBytes) {
    throw classified(
      "resource-exhausted",
      `${doing}: ${descriptor.size} bytes are more than the limit of ${manifestBytes}`,
    );
  }
  return overHosts(session, {
    doing,
    hosts: await pullHosts(session, name, options.exclude),
    signal,
    work: async (host, attempts) => {
      const one: Session = { ...session, limits: { ...session.limits, attempts } };
      const source = new BlobSource({
        session: one,
        name,
        descriptor,
        kind: kindOf(descriptor.mediaType),
        hosts: [host],
      });
      const parts: Uint8Array[] = [];
      let size = 0;
      for await (const chunk of resumed({ session: one, source, from: 0, end: () => source.size, signal })) {
        size += chunk.byteLength;
        if (size > manifestBytes) throw new HostError(plainFailure(host, `more than ${manifestBytes} bytes`));
        parts.push(chunk);
      }
      const bytes = Buffer.concat(parts);
      const found = digestOf(bytes, algorithm);
      if (found !== descriptor.digest) {
        throw new HostError(plainFailure(host, `its content has digest ${found}`, "data-loss"));
      }
      return bytes;
    },
  });
}
