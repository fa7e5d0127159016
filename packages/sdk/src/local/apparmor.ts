/** The AppArmor profile that containers get unless they bring their own. */
import { access, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { classified, decodeText, messageOf } from "@stevedore/base";
import { runCommand } from "@stevedore/os/spawn";

const LOADED = "/sys/kernel/security/apparmor/profiles";
const POLICIES = "/etc/apparmor.d";

/** More of apparmor_parser's words than this are not kept. */
const MAX_OUTPUT_BYTES = 64 << 10;

/**
 * Sees to it that a profile of this name is loaded; without one the default is made and loaded under the name.
 *
 * @throws not-found on a kernel without AppArmor; unknown with apparmor_parser's words.
 */
export async function loadDefaultProfile(name: string, signal: AbortSignal): Promise<void> {
  if (await isLoaded(name)) return;
  const folder = await mkdtemp(join(process.env["XDG_RUNTIME_DIR"] ?? tmpdir(), "apparmor-"));
  try {
    const file = join(folder, "profile");
    await writeFile(file, await defaultProfile(name), { mode: 0o600 });
    const ran = await runCommand(["apparmor_parser", "-Kr", file], { signal, maxOutputBytes: MAX_OUTPUT_BYTES });
    if (ran.code !== 0) {
      const said = `${decodeText(ran.stdout)}${decodeText(ran.stderr)}`.trim();
      throw classified("unknown", `load apparmor profile ${file}: parser error(${said}): exit status ${ran.code}`);
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function isLoaded(name: string): Promise<boolean> {
  let text: string;
  try {
    text = await readFile(LOADED, "utf8");
  } catch (cause) {
    const missing = cause instanceof Error && "code" in cause && cause.code === "ENOENT";
    if (!missing) throw classified("unknown", `open ${LOADED}: ${messageOf(cause)}`, { cause });
    throw classified("not-found", `open ${LOADED}: no such file or directory`, { cause });
  }
  return text.split("\n").some((line) => line.startsWith(`${name} (`));
}

async function defaultProfile(name: string): Promise<string> {
  const has = async (macro: string): Promise<boolean> =>
    access(join(POLICIES, macro)).then(
      () => true,
      () => false,
    );
  const [abi, tunables, base] = await Promise.all(["abi/3.0", "tunables/global", "abstractions/base"].map(has));
  const header = [
    ...(abi === true ? ["abi <abi/3.0>,"] : []),
    tunables === true ? "#include <tunables/global>" : "@{PROC}=/proc/",
  ];
  const own = [...(base === true ? ["#include <abstractions/base>"] : []), ...rules(name, await ownProfile())];
  const flags = "flags=(attach_disconnected,mediate_deleted)";
  return `${header.join("\n")}\n\nprofile ${name} ${flags} {\n${own.map((rule) => `  ${rule}\n`).join("")}}\n`;
}

/**
 * Everything that the mount namespace, the capabilities and the cgroups of a container do not already bound: the parts of
 * /proc and /sys that are the host's, mounts, and signals and traces across the container's border.
 */
function rules(name: string, daemon: string): string[] {
  const senders = [...new Set(["unconfined", "runc", "crun", daemon])];
  return [
    "network,",
    "capability,",
    "file,",
    "umount,",
    ...senders.map((peer) => `signal (receive) peer=${peer},`),
    `signal (send,receive) peer=${name},`,
    `ptrace (trace,tracedby,read,readby) peer=${name},`,
    "deny mount,",
    // Plain files in /proc are the machine's, and its folders but the processes' and sys are, too. Of sys shared memory may be set.
    "deny @{PROC}/* w,",
    ...othersThan("sys", { notDigits: true }).map((path) => `deny @{PROC}/${path} w,`),
    ...othersThan("sys/kernel/shm", { below: "sys/" }).map((path) => `deny @{PROC}/${path} w,`),
    ...["sysrq-trigger", "kcore"].map((file) => `deny @{PROC}/${file} rwklx,`),
    // Of /sys the cgroups, which have rules of their own.
    ...othersThan("fs/cgroup").map((path) => `deny /sys/${path} wklx,`),
    ...["firmware", "devices/virtual/powercap", "kernel/security"].map((path) => `deny /sys/${path}/** rwklx,`),
  ];
}

/**
 * Patterns of AppArmor for every path but those that begin with `kept`: the language has no "all but". One pattern for each place where a
 * path can first differ. `below`: only paths that begin with that part of `kept`; `notDigits`: none that begin with a digit, as the folders of
 * processes do.
 */
function othersThan(
  kept: string,
  { below = "", notDigits = false }: { readonly below?: string; readonly notDigits?: boolean } = {},
): string[] {
  const patterns: string[] = [];
  for (let at = below.length; at < kept.length; at++) {
    // A slash is no character of a name, so that a shorter name differs there, too.
    const next = kept[at] === "/" ? "" : kept[at];
    const digits = notDigits && at === 0 ? "0-9" : "";
    patterns.push(`${kept.slice(0, at)}[^${digits}${next ?? ""}/]**`);
  }
  return patterns;
}

/** The profile this process runs under, which is what its signals come from. */
async function ownProfile(): Promise<string> {
  try {
    const label = (await readFile("/proc/self/attr/current", "utf8")).replaceAll("\0", "").trim();
    const name = label.replace(/ \([a-z]+\)$/, "");
    return name === "" ? "unconfined" : name;
  } catch {
    return "unconfined";
  }
}
