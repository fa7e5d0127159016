import { constants } from "node:os";
import { classified } from "@stevedore/base/errors";

/** Signal numbers by name (`SIGTERM`), as this architecture has them. */
export const SIGNALS: Readonly<Record<string, number>> = { ...constants.signals };

export const SIGKILL = 9;
export const SIGTERM = 15;
export const SIGHUP = 1;

/** The first and last real-time signal as glibc numbers them (it keeps 32 and 33 for itself). */
const SIGRTMIN = 34;
const SIGRTMAX = 64;

/**
 * A signal as users write it: a number, or a name with or without SIG in any case, `RTMIN+3` and `RTMAX-2` included.
 *
 * @throws invalid-argument `unknown signal "x"`.
 */
export function parseSignal(text: string): number {
  const unknown = (): Error => classified("invalid-argument", `unknown signal ${JSON.stringify(text)}`);
  if (/^\d{1,3}$/.test(text)) {
    const number = Number(text);
    if (number < 1 || number > SIGRTMAX) throw unknown();
    return number;
  }
  const name = text.toUpperCase().replace(/^SIG/, "");
  const known = SIGNALS[`SIG${name}`];
  if (known !== undefined) return known;
  const match = /^RT(MIN|MAX)(?:([+-])(\d{1,2}))?$/.exec(name);
  if (match === null) throw unknown();
  const base = match[1] === "MIN" ? SIGRTMIN : SIGRTMAX;
  const offset = Number(match[3] ?? 0) * (match[2] === "-" ? -1 : 1);
  const number = base + offset;
  if (number < SIGRTMIN || number > SIGRTMAX) throw unknown();
  return number;
}

/** The name of a signal (`SIGTERM`), or its number as text when it has none. */
export function signalName(number: number): string {
  for (const [name, value] of Object.entries(SIGNALS)) if (value === number) return name;
  return String(number);
}
