import { classified } from "@stevedore/base/errors";

/** What the shim was asked to do. `serve` is the long-running process that `start` leaves behind. */
export type Action = "start" | "delete" | "serve" | "info" | "version" | "help";

/** The command line of a shim, in the peer's terms. */
export interface ShimFlags {
  readonly action: Action;
  readonly namespace: string;
  readonly id: string;
  /** The daemon's gRPC address. */
  readonly address: string;
  /** Path of a `containerd` whose `publish` command takes events when there is no ttrpc address. */
  readonly publishBinary: string;
  /** Socket path to serve; "" for none (start computes it). */
  readonly socket: string;
  /** Socket for debug requests; "" for none. */
  readonly debugSocket: string;
  /** Bundle folder; "" means the working directory. */
  readonly bundle: string;
  readonly debug: boolean;
}

const TEXT_FLAGS = ["namespace", "id", "address", "publish-binary", "socket", "debug-socket", "bundle"] as const;
const SWITCHES = ["debug", "v", "version", "info", "h", "help"] as const;

type TextFlag = (typeof TEXT_FLAGS)[number];
type Switch = (typeof SWITCHES)[number];

const isTextFlag = (name: string): name is TextFlag => TEXT_FLAGS.some((flag) => flag === name);
const isSwitch = (name: string): name is Switch => SWITCHES.some((flag) => flag === name);

const TRUE_WORDS: ReadonlySet<string> = new Set(["1", "t", "T", "true", "TRUE", "True"]);
const FALSE_WORDS: ReadonlySet<string> = new Set(["0", "f", "F", "false", "FALSE", "False"]);

/**
 * Parses a shim's arguments as Go's flag package does: one or two dashes, `-name value` or `-name=value`, switches
 * with an optional `=bool`, flags end at the first other word or at `--`.
 *
 * @throws invalid-argument in Go's words.
 */
export function parseFlags(argv: readonly string[]): ShimFlags {
  const texts = new Map<TextFlag, string>();
  const switches = new Set<Switch>();
  let at = 0;
  while (at < argv.length) {
    const word = argv[at] ?? "";
    if (!word.startsWith("-") || word === "-") break;
    at++;
    if (word === "--") break;
    const body = word.replace(/^--?/, "");
    const equals = body.indexOf("=");
    const name = equals < 0 ? body : body.slice(0, equals);
    const inline = equals < 0 ? undefined : body.slice(equals + 1);
    if (name === "" || name.startsWith("-")) throw classified("invalid-argument", `bad flag syntax: ${word}`);
    if (isSwitch(name)) {
      if (inline === undefined || TRUE_WORDS.has(inline)) switches.add(name);
      else if (FALSE_WORDS.has(inline)) switches.delete(name);
      else
        throw classified(
          "invalid-argument",
          `invalid boolean value ${JSON.stringify(inline)} for -${name}: parse error`,
        );
    } else if (isTextFlag(name)) {
      const value = inline ?? argv[at++];
      if (value === undefined) throw classified("invalid-argument", `flag needs an argument: -${name}`);
      texts.set(name, value);
    } else throw classified("invalid-argument", `flag provided but not defined: -${name}`);
  }
  const text = (name: TextFlag): string => texts.get(name) ?? "";
  return {
    action: actionOf(switches, argv[at] ?? ""),
    namespace: text("namespace"),
    id: text("id"),
    address: text("address"),
    publishBinary: text("publish-binary"),
    socket: text("socket"),
    debugSocket: text("debug-socket"),
    bundle: text("bundle"),
    debug: switches.has("debug"),
  };
}

function actionOf(switches: ReadonlySet<Switch>, word: string): Action {
  if (switches.has("h") || switches.has("help")) return "help";
  if (switches.has("v") || switches.has("version")) return "version";
  if (switches.has("info")) return "info";
  if (word === "start" || word === "delete") return word;
  return "serve";
}

/** What `-h` prints, laid out as Go's flag package lays it out. */
export function usage(program: string): string {
  return `Usage of ${program}:
  -address string
    \tgrpc address back to main containerd
  -bundle string
    \tpath to the bundle if not workdir
  -debug
    \tenable debug output in logs
  -debug-socket string
    \tdebug socket path to serve
  -id string
    \tid of the task
  -info
    \tget the option protobuf from stdin, print the shim info protobuf to stdout, and exit
  -namespace string
    \tnamespace that owns the shim
  -publish-binary string
    \tpath to publish binary (used for publishing events without a ttrpc address)
  -socket string
    \tsocket path to serve
  -v
  -version
    \tshow the shim version and exit
`;
}
