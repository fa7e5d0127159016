import { classified } from "@stevedore/base";

/** A platform as the OCI image specification names it. Absent and "" mean the same. */
export interface Platform {
  readonly os: string;
  readonly architecture: string;
  readonly variant?: string;
  readonly osVersion?: string;
  readonly osFeatures?: readonly string[];
}

/** Chooses among platforms. */
export interface PlatformMatcher {
  match(platform: Platform): boolean;
  /** Sorts better matches first; 0 for equals, so that a stable sort keeps the order of the index. */
  compare(a: Platform, b: Platform): number;
}

/** The machine a name without the missing part is completed from. */
export interface HostPlatform {
  readonly os: string;
  readonly architecture: string;
  /** Set on ARM only. */
  readonly variant?: string;
}

const KNOWN_OS: ReadonlySet<string> = new Set(
  "aix android darwin dragonfly freebsd hurd illumos ios js linux nacl netbsd openbsd plan9 solaris windows zos".split(
    " ",
  ),
);

const KNOWN_ARCHITECTURE: ReadonlySet<string> = new Set(
  (
    "386 amd64 amd64p32 arm armbe arm64 arm64be ppc64 ppc64le loong64 mips mipsle mips64 mips64le mips64p32 " +
    "mips64p32le ppc riscv riscv64 s390 s390x sparc sparc64 wasm"
  ).split(" "),
);

/** Go's names for what Node calls an architecture. */
const GO_ARCHITECTURE: Readonly<Record<string, string>> = {
  x64: "amd64",
  ia32: "386",
  mipsel: "mipsle",
  loong64: "loong64",
};

/** This process's machine. The variant of an ARM machine must be read from the system; see {@link armVariant}. */
export function hostPlatform(variant = ""): HostPlatform {
  const architecture = GO_ARCHITECTURE[process.arch] ?? process.arch;
  return { os: process.platform, architecture, ...(variant === "" ? {} : { variant }) };
}

/**
 * The variant of an ARM machine from /proc/cpuinfo and `uname -m`; "" on other architectures.
 *
 * @param cpuinfo the text of /proc/cpuinfo; its field is missing when ARM is emulated.
 */
export function armVariant(architecture: string, cpuinfo: string, machine: string): string {
  if (architecture !== "arm" && architecture !== "arm64") return "";
  const field = (name: string): string | undefined =>
    new RegExp(`^${name}\\s*:\\s*(.*)$`, "im").exec(cpuinfo)?.[1]?.trim();
  let found = field("cpu architecture") ?? (machine === "aarch64" ? "8" : (/^armv(\d)/.exec(machine)?.[1] ?? ""));
  // Some ARMv6 boards report 7.
  if (architecture === "arm" && found === "7" && /^armv6-compatible/i.test(field("model name") ?? "")) found = "6";
  const level = /^(?:aarch64|(\d))/i.exec(found);
  if (level === null) return /^\?\(1[2-7]\)$/.test(found) ? "v7" : "unknown";
  return `v${level[1] ?? "8"}`;
}

const OS_PART = /^([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*)((?:\+[A-Za-z0-9_.%-]+)*)\))?$/;
const PART = /^[A-Za-z0-9_.-]+$/;

/**
 * Reads `os`, `architecture`, `os/architecture` or `os/architecture/variant`, where the os may carry
 * `(version+feature…)`. What is missing comes from `host`.
 *
 * @throws invalid-argument
 */
export function parsePlatform(specifier: string, host: HostPlatform = hostPlatform()): Platform {
  const quoted = JSON.stringify(specifier);
  const fail = (what: string): Error => classified("invalid-argument", `${what}: invalid argument`);
  if (specifier.includes("*")) throw fail(`${quoted}: wildcards not yet supported`);
  const [first = "", second, third, ...more] = specifier.split("/", 5);
  const match = OS_PART.exec(first);
  if (match === null) {
    throw fail(
      `${JSON.stringify(first)} is an invalid OS component of ${quoted}: OSAndVersion specifier component must match ` +
        JSON.stringify(OS_PART.source),
    );
  }
  for (const part of [second, third, ...more]) {
    if (part === undefined || PART.test(part)) continue;
    throw fail(
      `${JSON.stringify(part)} is an invalid component of ${quoted}: platform specifier component must match ` +
        JSON.stringify(PART.source),
    );
  }
  if (more.length > 0) throw fail(`${quoted}: cannot parse platform specifier`);
  const os = normalizeOs(match[1] ?? "", host);
  const osVersion = decodeOption(match[2] ?? "");
  const osFeatures = (match[3] ?? "").split("+").slice(1).map(decodeOption);
  const options = { ...(osVersion === "" ? {} : { osVersion }), ...(osFeatures.length === 0 ? {} : { osFeatures }) };
  if (second === undefined) {
    if (KNOWN_OS.has(os)) {
      const variant = host.architecture === "arm" && host.variant !== "v7" ? (host.variant ?? "") : "";
      return platform(os, host.architecture, variant, options);
    }
    const alone = normalizeArchitecture(first, "");
    if (!KNOWN_ARCHITECTURE.has(alone.architecture)) {
      throw fail(`${quoted}: unknown operating system or architecture`);
    }
    return platform(host.os, alone.architecture, withoutV7(alone), options);
  }
  const { architecture, variant } = normalizeArchitecture(second, third ?? "");
  if (third === undefined) return platform(os, architecture, withoutV7({ architecture, variant }), options);
  return platform(os, architecture, architecture === "arm64" && variant === "" ? "v8" : variant, options);
}

function withoutV7(part: { readonly architecture: string; readonly variant: string }): string {
  return part.architecture === "arm" && part.variant === "v7" ? "" : part.variant;
}

function platform(
  os: string,
  architecture: string,
  variant: string,
  options: { readonly osVersion?: string; readonly osFeatures?: readonly string[] },
): Platform {
  return { os, architecture, ...(variant === "" ? {} : { variant }), ...options };
}

/** `os/architecture[/variant]`; "unknown" without an os. */
export function formatPlatform(value: Platform): string {
  if (value.os === "") return "unknown";
  return [value.os, value.architecture, value.variant ?? ""].filter((part) => part !== "").join("/");
}

/** As {@link formatPlatform}, with version and features behind the os: `windows(10.0.17763+win32k)/amd64`. */
export function formatPlatformAll(value: Platform): string {
  if (value.os === "") return "unknown";
  const features = (value.osFeatures ?? []).toSorted();
  const options = [encodeOption(value.osVersion ?? ""), ...features.map((each) => `+${encodeOption(each)}`)].join("");
  return formatPlatform(options === "" ? value : { ...value, os: `${value.os}(${options})` });
}

function encodeOption(text: string): string {
  return text.replace(/[%+()/]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`);
}

function decodeOption(text: string): string {
  if (!text.includes("%")) return text;
  try {
    return decodeURIComponent(text);
  } catch (cause) {
    throw classified(
      "invalid-argument",
      `decode platform option ${JSON.stringify(text)}: malformed: invalid argument`,
      {
        cause,
      },
    );
  }
}

/** The platform in canonical words: `x86_64` is `amd64`, `arm64/v8` is `arm64`, `arm` is `arm/v7`. */
export function normalizePlatform(value: Platform, host: HostPlatform = hostPlatform()): Platform {
  const { architecture, variant } = normalizeArchitecture(value.architecture, value.variant ?? "");
  const features = [...new Set(value.osFeatures ?? [])].sort();
  const osVersion = value.osVersion ?? "";
  return platform(normalizeOs(value.os, host), architecture, variant, {
    ...(osVersion === "" ? {} : { osVersion }),
    ...(features.length === 0 ? {} : { osFeatures: features }),
  });
}

function normalizeOs(os: string, host: HostPlatform): string {
  if (os === "") return host.os;
  const lower = os.toLowerCase();
  return lower === "macos" ? "darwin" : lower;
}

function normalizeArchitecture(
  architectureText: string,
  variantText: string,
): { readonly architecture: string; readonly variant: string } {
  const architecture = architectureText.toLowerCase();
  const variant = variantText.toLowerCase();
  switch (architecture) {
    case "i386":
      return { architecture: "386", variant: "" };
    case "x86_64":
    case "x86-64":
    case "amd64":
      return { architecture: "amd64", variant: variant === "v1" ? "" : variant };
    case "aarch64":
    case "arm64":
      return { architecture: "arm64", variant: variant === "8" || variant === "v8" ? "" : variant };
    case "armhf":
      return { architecture: "arm", variant: "v7" };
    case "armel":
      return { architecture: "arm", variant: "v6" };
    case "arm":
      if (variant === "") return { architecture, variant: "v7" };
      return { architecture, variant: /^[5-8]$/.test(variant) ? `v${variant}` : variant };
    default:
      return { architecture, variant };
  }
}

/** Matches this platform and no other spelling aside: `arm/v7` does not match `arm/v6`. */
export function onlyStrict(value: Platform): PlatformMatcher {
  return ordered([value]);
}

/** Matches this platform and those its processor also runs, best first: amd64/v3 … v1, then 386. */
export function only(value: Platform): PlatformMatcher {
  return ordered(compatible(normalizePlatform(value)));
}

/** What an image is chosen by when nobody says more: this machine and what it also runs. */
export function defaultMatcher(host: HostPlatform = hostPlatform()): PlatformMatcher {
  return only({ ...host });
}

/** Matches any of the platforms; earlier ones are better. */
export function ordered(values: readonly Platform[]): PlatformMatcher {
  const matchers = values.map(exact);
  const rank = (each: Platform): number => {
    const at = matchers.findIndex((matches) => matches(each));
    return at < 0 ? matchers.length : at;
  };
  return {
    match: (each) => matchers.some((matches) => matches(each)),
    compare: (a, b) => rank(a) - rank(b),
  };
}

/** Matches any of the platforms; none is better than another. */
export function anyOf(values: readonly Platform[]): PlatformMatcher {
  const matchers = values.map(exact);
  const match = (each: Platform): boolean => matchers.some((matches) => matches(each));
  return { match, compare: (a, b) => Number(match(b)) - Number(match(a)) };
}

/** Matches every platform. */
export const allPlatforms: PlatformMatcher = { match: () => true, compare: () => 0 };

/** Equal os, architecture and variant; the candidate's features must all be there, and on Windows its version fit. */
function exact(wanted: Platform): (candidate: Platform) => boolean {
  const want = normalizePlatform(wanted);
  return (candidate) => {
    const have = normalizePlatform(candidate);
    if (want.os !== have.os || want.architecture !== have.architecture) return false;
    if ((want.variant ?? "") !== (have.variant ?? "")) return false;
    if (want.os === "windows" && !sameWindowsBuild(want.osVersion ?? "", have.osVersion ?? "")) return false;
    const features = want.osFeatures ?? [];
    return (have.osFeatures ?? []).every((feature) => features.includes(feature));
  };
}

/** Windows images need the host's major, minor and build; a missing version fits all. */
function sameWindowsBuild(want: string, have: string): boolean {
  if (want === "" || have === "") return true;
  const build = (version: string): string => version.split(".").slice(0, 3).join(".");
  return build(want) === build(have);
}

function compatible(value: Platform): Platform[] {
  const variant = value.variant ?? "";
  const withVariant = (name: string): Platform => {
    const { variant: _, ...rest } = value;
    return name === "" ? rest : { ...rest, variant: name };
  };
  switch (value.architecture) {
    case "amd64": {
      const { variant: _, ...rest } = value;
      return [
        value,
        ...countDown(levelOf(variant) - 1, 1).map((level) => withVariant(`v${level}`)),
        { ...rest, architecture: "386" },
      ];
    }
    case "arm":
      return [value, ...countDown(levelOf(variant) - 1, 5).map((level) => withVariant(`v${level}`))];
    case "arm64": {
      const older = olderArm64(variant === "" ? "v8" : variant).map(withVariant);
      const arm32 = /^v[89]\./.test(variant) || variant === "" ? "v8" : variant;
      return [value, ...older, ...compatible({ ...withVariant(arm32), architecture: "arm" })];
    }
    default:
      return [value];
  }
}

/** The n of `vn`, or 0. */
function levelOf(variant: string): number {
  return /^v?\d+$/.test(variant) ? Number(variant.replace("v", "")) : 0;
}

function countDown(from: number, to: number): number[] {
  const levels: number[] = [];
  for (let level = Math.min(from, MAX_LEVEL); level >= to; level--) levels.push(level);
  return levels;
}

/** Highest variant that is counted down from; real ones end at 9, and the number comes from an image. */
const MAX_LEVEL = 32;

/** Variants below one of arm64, best first. v9.x also runs v8.(x+5), from where the two lines parted. */
function olderArm64(variant: string): string[] {
  const match = /^v?(\d+)(?:\.(\d))?$/.exec(variant);
  if (match === null) return [];
  const major = Number(match[1]);
  const minor = Number(match[2] ?? "0");
  if (major < 8) return [];
  const below = (line: number, from: number): string[] =>
    countDown(from, 0).map((each) => (each === 0 ? `v${line}` : `v${line}.${each}`));
  if (major !== 9) return below(major, minor - 1);
  return [...below(9, minor - 1), `v8.${minor + 5}`, ...below(8, minor + 4)];
}
