import { classified } from "@stevedore/base/errors";
import type { KeptExit, Owner, ProcessName, SpawnOrder } from "./protocol.ts";

/** Fields of messages, checked: both ends are ours, but one may be of another version. */

export function fieldsOf(value: unknown): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw wrong("a message", value);
  return { ...value };
}

export function textField(value: unknown): string {
  if (typeof value !== "string") throw wrong("text", value);
  return value;
}

export function numberField(value: unknown): number {
  if (typeof value !== "number" || !Number.isFinite(value)) throw wrong("a number", value);
  return value;
}

export function textsField(value: unknown): string[] {
  if (!Array.isArray(value)) throw wrong("a list", value);
  return value.map(textField);
}

export function ownerField(value: unknown): Owner {
  const { namespace, container, exec } = fieldsOf(value);
  return { namespace: textField(namespace), container: textField(container), exec: textField(exec) };
}

export function processField(value: unknown): ProcessName {
  const { pid, start } = fieldsOf(value);
  return { pid: numberField(pid), start: textField(start) };
}

export function exitField(value: unknown): KeptExit {
  const { code, at } = fieldsOf(value);
  return { ...processField(value), code: numberField(code), at: numberField(at) };
}

export function orderOf(value: unknown): SpawnOrder {
  const { argv, env, cwd, argv0, newSession } = fieldsOf(value);
  const environment: Record<string, string> = {};
  for (const [name, text] of Object.entries(fieldsOf(env))) environment[name] = textField(text);
  return {
    argv: textsField(argv),
    env: environment,
    cwd: textField(cwd),
    newSession: newSession === true,
    ...(argv0 === undefined ? {} : { argv0: textField(argv0) }),
  };
}

function wrong(want: string, found: unknown): Error {
  return classified("invalid-argument", `read a keeper's message: found ${JSON.stringify(found)}, want ${want}`);
}
