import { type Descriptor, MediaType, parseDigest, parseIndex } from "@stevedore/oci";
import { HostError } from "./failure.ts";
import type { RegistryHost } from "./hosts/types.ts";
import { readAll } from "./http/carrier.ts";
import { joinedHeader } from "./http/head.ts";
import { apiPath, type ImageName, namespaceQuery, scopeOf } from "./image-name.ts";
import { addEntries, nextPage } from "./lists.ts";
import { overHosts, withCapabilities } from "./over-hosts.ts";
import { plainFailure, send } from "./request.ts";
import type { Session } from "./session.ts";

/** What refers to a manifest: signatures, attestations, bills of material. */
export interface ReferrersOptions {
  readonly signal?: AbortSignal;
  /** Only these artifact types; all without any. */
  readonly artifactTypes?: readonly string[];
}

const NEVER = new AbortController().signal;

/**
 * Manifests whose `subject` is `digest`: by the referrers API, or by the tag that stands for it in registries without
 * one. A manifest nobody refers to, known or not, has none.
 *
 * @throws RegistryError
 */
export async function referrers(
  session: Session,
  name: ImageName,
  request: { readonly digest: string; readonly options: ReferrersOptions },
): Promise<readonly Descriptor[]> {
  const { digest, options } = request;
  const { signal = NEVER, artifactTypes = [] } = options;
  parseDigest(digest);
  const all = await session.hosts.hosts(name.namespace);
  const able = withCapabilities(all, ["referrers"]);
  const found = await overHosts(session, {
    doing: `list what refers to ${digest} in ${name.namespace}/${name.repository}`,
    hosts: able.length > 0 ? able : withCapabilities(all, ["resolve"]),
    signal,
    work: async (host, attempts) => {
      const asking: Asking = { session, name, host, digest, artifactTypes, signal, attempts };
      const byApi = host.capabilities.has("referrers") ? await fromApi(asking) : undefined;
      return byApi ?? fromTag(asking);
    },
  });
  const wanted = new Set(artifactTypes);
  return wanted.size === 0 ? found : found.filter(({ artifactType }) => wanted.has(artifactType ?? ""));
}

interface Asking {
  readonly session: Session;
  readonly name: ImageName;
  readonly host: RegistryHost;
  readonly digest: string;
  readonly artifactTypes: readonly string[];
  readonly signal: AbortSignal;
  readonly attempts: number;
}

/** By the API; undefined when the registry has none. */
async function fromApi(asking: Asking): Promise<readonly Descriptor[] | undefined> {
  const { session, host, name, digest, artifactTypes } = asking;
  const { limits } = session;
  const found: Descriptor[] = [];
  const seen = new Set<string>();
  let next: URL | undefined;
  for (let pages = 0; ; pages++) {
    if (pages >= limits.listPages)
      throw new HostError(plainFailure(host, `a list of more than ${limits.listPages} pages`));
    const response = await get(asking, {
      path: next ?? apiPath(name, "referrers", digest),
      query: next === undefined ? artifactTypes.map((type): [string, string] => ["artifactType", type]) : [],
      accept: [400, 404, 405, 406],
    });
    const type = joinedHeader(response.headers, "content-type");
    if (response.status >= 400 || !type.startsWith(MediaType.ociIndex)) {
      // Registries without the API answer 404, or with a page of theirs.
      await response.discard();
      return undefined;
    }
    addEntries(session, host, { to: found, from: readIndex(host, await readAll(response, limits.listBytes)) });
    next = nextPage(response.headers, response.url);
    if (next === undefined) return found;
    if (seen.has(next.href)) throw new HostError(plainFailure(host, "a list whose pages repeat"));
    seen.add(next.href);
  }
}

/** By the tag `sha256-<hex>`, which names an index of the same form. */
async function fromTag(asking: Asking): Promise<readonly Descriptor[]> {
  const { session, host, name, digest } = asking;
  const { algorithm, encoded } = parseDigest(digest);
  // 128 characters are what a tag may have.
  const tag = `${algorithm}-${encoded}`.slice(0, 128);
  const response = await get(asking, { path: apiPath(name, "manifests", tag), query: [], accept: [404] });
  if (response.status === 404) {
    await response.discard();
    return [];
  }
  return readIndex(host, await readAll(response, session.limits.manifestBytes));
}

async function get(
  asking: Asking,
  request: {
    readonly path: string | URL;
    readonly query: readonly (readonly [string, string])[];
    readonly accept: readonly number[];
  },
): ReturnType<typeof send> {
  const { session, host, name, signal, attempts } = asking;
  const own = typeof request.path === "string" ? namespaceQuery(host, name.namespace) : [];
  return send(session, {
    host,
    namespace: name.namespace,
    method: "GET",
    path: request.path,
    query: [...request.query, ...own],
    headers: [["Accept", MediaType.ociIndex]],
    scopes: [scopeOf(name.repository, "pull")],
    signal,
    attempts,
    accept: request.accept,
  });
}

function readIndex(host: RegistryHost, bytes: Uint8Array): readonly Descriptor[] {
  try {
    return parseIndex(bytes, MediaType.ociIndex).manifests;
  } catch (error) {
    throw new HostError(plainFailure(host, "answers with no index to a question for referrers"), error);
  }
}
