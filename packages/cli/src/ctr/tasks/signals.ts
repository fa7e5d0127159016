import { constants } from "node:os";
import { classified } from "@stevedore/base";

/** First real-time signal a program may use: glibc keeps 32 and 33. */
const SIGRTMIN = 34;
const SIGRTMAX = 64;

/**
 * The number of a signal given as `9`, `KILL`, `SIGKILL` or `SIGRTMIN+3`, in any case.
 * @throws invalid-argument `unknown signal "x"`
 */
export function signalNumber(text: string): number {
  const upper = text.toUpperCase();
  if (/^\d+$/.test(upper)) {
    const number = Number(upper);
    if (number === 0 || number > SIGRTMAX) throw unknownSignal(text);
    return number;
  }
  const name = upper.startsWith("SIG") ? upper : `SIG${upper}`;
  const realtime = /^SIGRT(MIN|MAX)(?:([+-])(\d+))?$/.exec(name);
  if (realtime !== null) {
    const offset = realtime[3] === undefined ? 0 : Number(`${realtime[2] ?? "+"}${realtime[3]}`);
    const number = (realtime[1] === "MIN" ? SIGRTMIN : SIGRTMAX) + offset;
    if (number < SIGRTMIN || number > SIGRTMAX) throw unknownSignal(text);
    return number;
  }
  for (const [known, number] of Object.entries(constants.signals)) if (known === name) return number;
  throw unknownSignal(text);
}

function unknownSignal(text: string): Error {
  return classified("invalid-argument", `unknown signal ${JSON.stringify(text)}`);
}
