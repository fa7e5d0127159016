/** Query keys whose values carry no secret and help to understand a failure. */
const PLAIN_KEYS: ReadonlySet<string> = new Set([
  "ns",
  "n",
  "last",
  "scope",
  "service",
  "digest",
  "mount",
  "from",
  "artifactType",
]);

/** What stands in a message for something secret. */
const HIDDEN = "xxxxx";

/**
 * A URL as messages show it: no user info, no fragment, and of its query only the values of keys known to be harmless
 * (signed URLs of blob stores are bearer secrets).
 */
export function redactUrl(url: URL | string): string {
  let parsed: URL;
  try {
    parsed = new URL(url);
  } catch {
    return redactText(String(url));
  }
  const query = [...parsed.searchParams].map(([key, value]) => {
    return `${encodeURIComponent(key)}=${PLAIN_KEYS.has(key) ? encodeURIComponent(value) : HIDDEN}`;
  });
  return `${parsed.protocol}//${parsed.host}${parsed.pathname}${query.length === 0 ? "" : `?${query.join("&")}`}`;
}

/**
 * Text of others (error bodies, header values, system messages) as messages show it: on one line, at most `max`
 * characters, user info of URLs and each of `secrets` taken out.
 */
export function redactText(text: string, secrets: readonly string[] = [], max = 512): string {
  let shown = text;
  for (const secret of secrets) if (secret.length >= 4) shown = shown.replaceAll(secret, HIDDEN);
  shown = shown
    // oxlint-disable-next-line no-control-regex -- control characters are what is taken out
    .replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, " ")
    .replace(/:\/\/[^\s/@"']*@/g, "://")
    .replace(/([?&][^=\s&"']{1,64}=)[^\s&"']+/g, `$1${HIDDEN}`)
    .trim();
  return shown.length > max ? `${shown.slice(0, max)}…` : shown;
}
