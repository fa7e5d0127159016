/** Which of Prometheus' formats a scrape gets, chosen as the Go client does: the first that both know, by quality. */

export interface Format {
  readonly kind: "text" | "protobuf";
  readonly contentType: string;
}

/** Schemes for names outside `[a-zA-Z0-9_:]`. There are none such here, so each leaves the page as it is. */
const SCHEMES: ReadonlySet<string> = new Set(["allow-utf-8", "underscores", "dots", "values"]);

/** The scheme of the peer when a scrape names none. */
const DEFAULT_SCHEME = "underscores";

const TEXT_VERSION = "0.0.4";
const PROTOBUF = "application/vnd.google.protobuf";
const FAMILY = "io.prometheus.client.MetricFamily";

interface Accepted {
  readonly type: string;
  readonly quality: number;
  readonly parameters: ReadonlyMap<string, string>;
}

/** @param accept the request header; "" when there is none. OpenMetrics is not offered, as the peer does not. */
export function chooseFormat(accept: string): Format {
  const list = parse(accept).toSorted((a, b) => b.quality - a.quality);
  let scheme = DEFAULT_SCHEME;
  for (const { type, parameters } of list) {
    const asked = parameters.get("escaping");
    if (asked !== undefined && SCHEMES.has(asked)) scheme = asked;
    if (type === PROTOBUF && parameters.get("proto") === FAMILY && parameters.get("encoding") === "delimited") {
      return { kind: "protobuf", contentType: `${PROTOBUF}; proto=${FAMILY}; encoding=delimited; escaping=${scheme}` };
    }
    const version = parameters.get("version");
    if (type === "text/plain" && (version === undefined || version === TEXT_VERSION)) break;
  }
  return { kind: "text", contentType: `text/plain; version=${TEXT_VERSION}; charset=utf-8; escaping=${scheme}` };
}

/** Encodings of the peer, in its order of preference when a client rates them equal. */
const ENCODINGS = ["identity", "gzip", "zstd"] as const;
export type Encoding = (typeof ENCODINGS)[number];

/** @param accept the request header `accept-encoding`; "" when there is none. */
export function encodingOf(accept: string): Encoding {
  let best: Encoding = "identity";
  let quality = 0;
  for (const { type, quality: rated } of parse(accept)) {
    for (const offer of ENCODINGS) {
      if (offer !== "identity" && offer === type && rated > quality) {
        best = offer;
        quality = rated;
      }
    }
  }
  return best;
}

function parse(header: string): Accepted[] {
  return header
    .split(",")
    .map((part) => part.split(";").map((piece) => piece.trim()))
    .filter(([type = ""]) => type !== "")
    .map(([type = "", ...rest]) => {
      const parameters = new Map(
        rest.map((piece) => {
          const [name = "", value = ""] = piece.split("=").map((half) => half.trim());
          return [name.toLowerCase(), value.replace(/^"(.*)"$/, "$1")] as const;
        }),
      );
      const rated = Number(parameters.get("q") ?? 1);
      return { type: type.toLowerCase(), quality: Number.isNaN(rated) ? 0 : rated, parameters };
    })
    .filter(({ quality }) => quality > 0);
}
