import { parseJson } from "@stevedore/oci";
import { conforms, isString, listOf, optional, shape, withoutNulls } from "@stevedore/oci/json-check";
import { HostError } from "./failure.ts";
import type { RegistryHost } from "./hosts/types.ts";
import { type HttpResponse, readAll } from "./http/carrier.ts";
import { type HttpHeaders, joinedHeader } from "./http/head.ts";
import { apiPath, type ImageName, namespaceQuery, scopeOf } from "./image-name.ts";
import { overHosts, withCapabilities } from "./over-hosts.ts";
import { plainFailure, send } from "./request.ts";
import type { Session } from "./session.ts";

/** Entries of a page that are asked for. */
const PAGE = 1000;

/** Where a paged list goes on, by the header Link; undefined at its end. */
export function nextPage(headers: HttpHeaders, from: URL): URL | undefined {
  for (const part of joinedHeader(headers, "link").split(/,(?=\s*<)/)) {
    const match = /^\s*<([^>]*)>\s*;(.*)$/.exec(part);
    if (match?.[1] === undefined || !/(?:^|;)\s*rel\s*=\s*"?next"?\s*(?:;|$)/i.test(match[2] ?? "")) continue;
    const url = URL.parse(match[1], from.href);
    // A list that goes on elsewhere would take credentials along, or lose them; neither is meant.
    return url !== null && url.host === from.host ? url : undefined;
  }
  return undefined;
}

/** Everything needed to read a paged list from one host. */
export interface PagedList {
  readonly host: RegistryHost;
  readonly namespace: string;
  readonly path: string;
  readonly query: readonly (readonly [string, string])[];
  readonly headers?: readonly (readonly [string, string])[];
  readonly scopes: readonly string[];
  readonly signal: AbortSignal;
  readonly attempts: number;
}

/** Pages of a list: each body, parsed, with its answer. @throws HostError for pages without end, or that repeat */
export async function* pagesOf(
  session: Session,
  list: PagedList,
): AsyncGenerator<{ readonly document: unknown; readonly response: HttpResponse }, void, undefined> {
  const { limits } = session;
  const seen = new Set<string>();
  let next: URL | undefined;
  for (let pages = 0; ; pages++) {
    if (pages >= limits.listPages)
      throw new HostError(plainFailure(list.host, `a list of more than ${limits.listPages} pages`));
    const response = await send(
      session,
      next === undefined ? { ...list, method: "GET" } : { ...list, method: "GET", path: next, query: [] },
    );
    const bytes = await readAll(response, limits.listBytes);
    let document: unknown;
    try {
      document = withoutNulls(parseJson(bytes));
    } catch {
      throw new HostError(plainFailure(list.host, "answers with something that is no JSON to a list"));
    }
    yield { document, response };
    next = nextPage(response.headers, response.url);
    if (next === undefined) return;
    if (seen.has(next.href)) throw new HostError(plainFailure(list.host, "a list whose pages repeat"));
    seen.add(next.href);
  }
}

/** Adds a page's entries to those there are. @throws HostError when there are too many */
export function addEntries<T>(
  session: Session,
  host: RegistryHost,
  lists: { readonly to: T[]; readonly from: readonly T[] },
): void {
  const most = session.limits.listEntries;
  if (lists.to.length + lists.from.length > most) {
    throw new HostError(plainFailure(host, `a list of more than ${most} entries`));
  }
  for (const entry of lists.from) lists.to.push(entry);
}

interface TagsPage {
  readonly tags?: readonly string[];
}

const TAGS = shape<TagsPage>({ tags: optional(listOf(isString)) });

interface CatalogPage {
  readonly repositories?: readonly string[];
}

const CATALOG = shape<CatalogPage>({ repositories: optional(listOf(isString)) });

/** The tags of a repository, in the registry's order. @throws RegistryError */
export async function tags(session: Session, name: ImageName, signal: AbortSignal): Promise<readonly string[]> {
  return overHosts(session, {
    doing: `list the tags of ${name.namespace}/${name.repository}`,
    hosts: withCapabilities(await session.hosts.hosts(name.namespace), ["pull", "resolve"]),
    signal,
    work: async (host, attempts) => {
      const found: string[] = [];
      const list = {
        host,
        namespace: name.namespace,
        path: apiPath(name, "tags", "list"),
        query: [["n", String(PAGE)], ...namespaceQuery(host, name.namespace)] as const,
        scopes: [scopeOf(name.repository, "pull")],
        signal,
        attempts,
      };
      for await (const { document } of pagesOf(session, list)) {
        if (!conforms<TagsPage>(document, TAGS))
          throw new HostError(plainFailure(host, "answers with no list of tags"));
        addEntries(session, host, { to: found, from: document.tags ?? [] });
      }
      return found;
    },
  });
}

/** The repositories of a registry, where it tells them. @throws RegistryError */
export async function catalog(session: Session, namespace: string, signal: AbortSignal): Promise<readonly string[]> {
  return overHosts(session, {
    doing: `list the repositories of ${namespace}`,
    hosts: (await session.hosts.hosts(namespace)).filter(({ own }) => own),
    signal,
    work: async (host, attempts) => {
      const found: string[] = [];
      const list = {
        host,
        namespace,
        path: "/_catalog",
        query: [["n", String(PAGE)]] as const,
        scopes: ["registry:catalog:*"],
        signal,
        attempts,
      };
      for await (const { document } of pagesOf(session, list)) {
        if (!conforms<CatalogPage>(document, CATALOG))
          throw new HostError(plainFailure(host, "answers with no catalog"));
        addEntries(session, host, { to: found, from: document.repositories ?? [] });
      }
      return found;
    },
  });
}
