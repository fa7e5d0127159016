/** Variables of the environment that name proxies, as Go's programs read them. */
export type Environment = Readonly<Record<string, string | undefined>>;

/**
 * The proxy for a URL by HTTP_PROXY, HTTPS_PROXY and NO_PROXY (or their lower-case names), with Go's rules: loopback
 * never goes through a proxy, a bare name in NO_PROXY also means what is below it, addresses may be ranges.
 *
 * @throws TypeError for a proxy that is no URL.
 */
export function proxyFor(url: URL, environment: Environment): URL | undefined {
  const name = url.protocol === "https:" ? "HTTPS_PROXY" : "HTTP_PROXY";
  const value = variable(environment, name);
  if (value === "" || isLoopback(url.hostname) || isExempt(url, variable(environment, "NO_PROXY"))) return undefined;
  return new URL(value.includes("://") ? value : `http://${value}`);
}

function variable(environment: Environment, name: string): string {
  const upper = environment[name] ?? "";
  return upper === "" ? (environment[name.toLowerCase()] ?? "") : upper;
}

/** Whether a host name or address stands for this machine. Brackets of IPv6 addresses may be there or not. */
export function isLoopback(hostname: string): boolean {
  const bare = unbracket(hostname);
  return bare === "localhost" || /^127(?:\.\d{1,3}){3}$/.test(bare) || bare === "::1";
}

/** An IPv6 address without its brackets. */
export function unbracket(hostname: string): string {
  return hostname.startsWith("[") && hostname.endsWith("]") ? hostname.slice(1, -1) : hostname;
}

function isExempt(url: URL, list: string): boolean {
  const hostname = unbracket(url.hostname).toLowerCase();
  const port = url.port === "" ? (url.protocol === "https:" ? "443" : "80") : url.port;
  for (const entry of list.split(",")) {
    const item = entry.trim().toLowerCase();
    if (item === "") continue;
    if (item === "*") return true;
    if (inRange(hostname, item)) return true;
    const [, host = "", wantPort] = /^(.*?)(?::(\d+))?$/.exec(item) ?? [];
    const bare = item.includes("::") ? unbracket(item) : unbracket(host);
    if (wantPort !== undefined && !item.includes("::") && wantPort !== port) continue;
    if (bare === hostname) return true;
    const suffix = bare.replace(/^\*?\.?/, ".");
    if (hostname.endsWith(suffix)) return true;
  }
  return false;
}

function inRange(hostname: string, range: string): boolean {
  const [base = "", bits = ""] = range.split("/");
  const address = ipv4(hostname);
  const network = ipv4(base);
  const length = /^\d{1,2}$/.test(bits) ? Number(bits) : -1;
  if (address === undefined || network === undefined || length < 0 || length > 32) return false;
  const shift = 32 - length;
  return Math.floor(address / 2 ** shift) === Math.floor(network / 2 ** shift);
}

function ipv4(text: string): number | undefined {
  const parts = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(text)?.slice(1).map(Number);
  if (parts === undefined || parts.some((part) => part > 255)) return undefined;
  return parts.reduce((all, part) => all * 256 + part, 0);
}
