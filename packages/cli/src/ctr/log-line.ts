import { messageOf } from "@stevedore/base";

/** A line as the peer's logger prints it on a command's stderr. */
export function logLine(level: "info" | "warning" | "error" | "fatal", message: string, error?: unknown): string {
  const time = new Date().toISOString().replace(/\.\d+Z$/, "Z");
  const cause = error === undefined ? "" : ` error=${quoted(messageOf(error))}`;
  return `time="${time}" level=${level} msg=${quoted(message)}${cause}\n`;
}

// logrus quotes values that hold anything but letters, digits and -._/@^+.
function quoted(text: string): string {
  return /^[A-Za-z0-9\-._/@^+]+$/.test(text) ? text : JSON.stringify(text);
}
