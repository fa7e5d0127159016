/** Users of the endpoint, from a file of `htpasswd -B`. */
import { readFile, stat } from "node:fs/promises";
import { classified, messageOf } from "@stevedore/base";
import { RegistryError } from "./answers.ts";

/** How long a password that was right is not hashed again: a pull asks for each of its blobs. */
const REMEMBERED_MS = 60_000;
/** Passwords remembered at a time. */
const MAX_REMEMBERED = 1_000;
/** Passwords that wait to be hashed. */
const MAX_WAITING = 32;
/** What is hashed for a user that is not there, so that the answer takes as long. */
const NOBODY = "$2b$05$abcdefghijklmnopqrstuuW2G6uB0K0rO8xRjmqMpPPS5JD4U5q2G";

/**
 * Tells whether an Authorization header is of one of the file's users. The file is read anew when it has changed.
 * @throws invalid-argument, not-found when the file cannot be read at first
 */
export async function openUsers(path: string): Promise<(authorization: string | null) => Promise<boolean>> {
  let users = await readUsers(path);
  let stamp = await stampOf(path);
  const right = new Map<string, number>();
  return async (authorization) => {
    const [, encoded] = /^Basic ([A-Za-z0-9+/=]{1,4096})$/i.exec(authorization ?? "") ?? [];
    if (encoded === undefined) return false;
    try {
      const now = await stampOf(path);
      if (now !== stamp) {
        users = await readUsers(path);
        stamp = now;
        right.clear();
      }
    } catch {
      // Said without the file's name: whoever asks is nobody yet.
      throw new RegistryError("UNAVAILABLE", "the registry's users cannot be read just now");
    }
    const known = new Bun.CryptoHasher("sha256").update(encoded).digest("hex");
    if ((right.get(known) ?? 0) > performance.now()) return true;
    const text = Buffer.from(encoded, "base64").toString("utf8");
    const colon = text.indexOf(":");
    if (colon < 0) return false;
    const hash = users.get(text.slice(0, colon));
    const fits = await verify(text.slice(colon + 1), hash ?? NOBODY);
    if (!fits || hash === undefined) return false;
    if (right.size >= MAX_REMEMBERED) right.clear();
    right.set(known, performance.now() + REMEMBERED_MS);
    return true;
  };
}

let waiting = 0;
let last: Promise<unknown> = Promise.resolve();

/** One at a time: a hash takes a quarter of a second of one of the few threads that read files as well. */
async function verify(password: string, hash: string): Promise<boolean> {
  if (waiting >= MAX_WAITING) throw new RegistryError("TOOMANYREQUESTS", "too many log-ins at once");
  waiting += 1;
  const mine = last.then(async () => Bun.password.verify(password, hash)).catch(() => false);
  last = mine;
  try {
    return await mine;
  } finally {
    waiting -= 1;
  }
}

async function stampOf(path: string): Promise<string> {
  const { mtimeMs, ino, size } = await stat(path);
  return `${ino} ${size} ${mtimeMs}`;
}

async function readUsers(path: string): Promise<ReadonlyMap<string, string>> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    throw classified("not-found", `read users of the registry endpoint from ${path}: ${messageOf(error)}: not found`);
  }
  const users = new Map<string, string>();
  for (const [at, line] of text.split("\n").entries()) {
    if (line.trim() === "" || line.startsWith("#")) continue;
    const [, user, version, rest] = /^([^:]+):\$2([aby])(\$\d{2}\$[./A-Za-z0-9]{53})\s*$/.exec(line) ?? [];
    if (user === undefined || version === undefined || rest === undefined) {
      throw classified(
        "invalid-argument",
        `read users of the registry endpoint from ${path}, line ${at + 1}: want "user:$2y$..." as htpasswd -B writes it: invalid argument`,
      );
    }
    // The letter tells which program made the hash, not another algorithm.
    users.set(user, `$2b${rest}`);
  }
  return users;
}
