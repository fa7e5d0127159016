import { RegistryError } from "./answers.ts";

/** Most entries of one page. */
const MAX_PAGE = 10_000;

/**
 * The part of a sorted list that `?n=` and `?last=` ask for, with the link to the next.
 * @throws RegistryError PAGINATION_NUMBER_INVALID
 */
export function pageOf(
  all: readonly string[],
  url: URL,
): { readonly items: readonly string[]; readonly headers: Readonly<Record<string, string>> } {
  const asked = url.searchParams.get("n");
  if (asked !== null && !/^\d{1,9}$/.test(asked)) {
    throw new RegistryError("PAGINATION_NUMBER_INVALID", `found n=${asked}, want a number`);
  }
  const count = Math.min(asked === null ? MAX_PAGE : Number(asked), MAX_PAGE);
  const last = url.searchParams.get("last");
  const left = last === null ? all : all.filter((item) => item > last);
  const items = left.slice(0, count);
  const end = items.at(-1);
  if (end === undefined || items.length === left.length) return { items, headers: {} };
  const next = new URLSearchParams({ last: end, n: String(count) });
  return { items, headers: { link: `<${url.pathname}?${next.toString()}>; rel="next"` } };
}
