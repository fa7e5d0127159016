import { messageOf } from "@stevedore/base";

/** A line as the peer's logger prints it on a command's stderr. */
export function logLine(
  level: "debug" | "info" | "warning" | "error" | "fatal",
  message: string,
  error?: unknown,
  fields: Readonly<Record<string, string>> = {},
): string {
  const time = new Date().toISOString().replace(/\.\d+Z$/, "Z");
  const cause = error === undefined ? "" : ` error=${quoted(messageOf(error))}`;
  const more = Object.entries(fields).map(([key, value]) => ` ${key}=${quoted(value)}`);
  return `time="${time}" level=${level} msg=${quoted(message)}${cause}${more.join("")}\n`;
}

// logrus quotes values that hold anything but letters, digits and -._/@^+.
function quoted(text: string): string {
  return /^[A-Za-z0-9\-._/@^+]+$/.test(text) ? text : JSON.stringify(text);
}
