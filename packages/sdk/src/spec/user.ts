import { classified } from "@stevedore/base";

/** Largest uid or gid: (uid_t)-1 and above 2^31-1 mean something else to some callers, so they are refused (CVE-2024-40635). */
const MAX_ID = 2 ** 31 - 1;

/** Lines looked at in a passwd or group file; the files come from an image and are not trusted to be small. */
const MAX_LINES = 100_000;

export interface PasswdEntry {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
}

export interface GroupEntry {
  readonly name: string;
  readonly gid: number;
  readonly members: readonly string[];
}

/** Who the process runs as. */
export interface ResolvedUser {
  readonly uid: number;
  readonly gid: number;
  readonly additionalGids: readonly number[];
}

function parseId(text: string): number | undefined {
  if (!/^\d{1,10}$/.test(text)) return undefined;
  const id = Number(text);
  return id <= MAX_ID ? id : undefined;
}

function* records(text: string): Generator<string[]> {
  let count = 0;
  for (const line of text.split("\n")) {
    if (++count > MAX_LINES) return;
    const trimmed = line.trim();
    if (trimmed !== "" && !trimmed.startsWith("#")) yield trimmed.split(":");
  }
}

/** Entries of a passwd file; lines that are not entries are passed over. */
export function parsePasswd(text: string): PasswdEntry[] {
  const entries: PasswdEntry[] = [];
  for (const [name, , uidText, gidText] of records(text)) {
    const uid = parseId(uidText ?? "");
    const gid = parseId(gidText ?? "");
    if (name !== undefined && name !== "" && uid !== undefined && gid !== undefined) entries.push({ name, uid, gid });
  }
  return entries;
}

/** Entries of a group file; lines that are not entries are passed over. */
export function parseGroup(text: string): GroupEntry[] {
  const entries: GroupEntry[] = [];
  for (const [name, , gidText, members] of records(text)) {
    const gid = parseId(gidText ?? "");
    if (name === undefined || name === "" || gid === undefined) continue;
    entries.push({ name, gid, members: (members ?? "").split(",").filter((member) => member !== "") });
  }
  return entries;
}

/**
 * Resolves an image's or a flag's USER (`name`, `uid`, `name:group`, `uid:gid`, ...) against the container's own files.
 * A number that is out of range is refused, never read as a name: an image could define a user of that name.
 *
 * @param files text of the root file system's `/etc/passwd` and `/etc/group`, "" when absent.
 * @throws invalid-argument for a malformed or out-of-range user; not-found for a name without an entry
 */
export function resolveUser(user: string, files: { readonly passwd: string; readonly group: string }): ResolvedUser {
  const parts = user.split(":");
  if (parts.length > 2) throw classified("invalid-argument", `invalid USER value ${user}: invalid argument`);
  const [userPart = "", groupPart] = parts;
  const passwd = parsePasswd(files.passwd);
  const groups = parseGroup(files.group);
  const who = findUser(userPart, passwd);
  const gid = groupPart === undefined || groupPart === "" ? who.gid : findGroup(groupPart, groups);
  const additional =
    groupPart === undefined && who.name !== undefined
      ? groups.filter((group) => group.members.includes(who.name ?? "")).map((group) => group.gid)
      : [];
  const rest = additional.filter((id) => id !== gid);
  return { uid: who.uid, gid, additionalGids: [gid, ...new Set(rest)] };
}

interface FoundUser {
  readonly uid: number;
  readonly gid: number;
  readonly name?: string;
}

function findUser(text: string, passwd: readonly PasswdEntry[]): FoundUser {
  if (text === "") {
    const root = passwd.find((entry) => entry.uid === 0);
    return root ?? { uid: 0, gid: 0 };
  }
  if (/^[+-]?\d+$/.test(text)) {
    const uid = parseId(text);
    if (uid === undefined) {
      throw classified("invalid-argument", `invalid uid ${text}: must be between 0 and ${MAX_ID}: invalid argument`);
    }
    return passwd.find((entry) => entry.uid === uid) ?? { uid, gid: 0 };
  }
  const entry = passwd.find((candidate) => candidate.name === text);
  if (entry === undefined)
    throw classified("not-found", `no users found for ${JSON.stringify(text)} in /etc/passwd: not found`);
  return entry;
}

function findGroup(text: string, groups: readonly GroupEntry[]): number {
  if (/^[+-]?\d+$/.test(text)) {
    const gid = parseId(text);
    if (gid === undefined) {
      throw classified("invalid-argument", `invalid gid ${text}: must be between 0 and ${MAX_ID}: invalid argument`);
    }
    return gid;
  }
  const entry = groups.find((group) => group.name === text);
  if (entry === undefined)
    throw classified("not-found", `no groups found for ${JSON.stringify(text)} in /etc/group: not found`);
  return entry.gid;
}
