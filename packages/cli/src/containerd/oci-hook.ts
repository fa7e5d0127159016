import { readFile } from "node:fs/promises";
import { isAbsolute, join } from "node:path";
import { classified, messageOf } from "@stevedore/base";
import { containerdCommand } from "./globals.ts";
import { renderTemplate, type TemplateFunctions } from "./hook-template.ts";

/** Becomes the hook it is given, with values of the container put into its arguments and environment. */
export const command = containerdCommand({
  flags: {},
  action: async ({ args, io }) => {
    const state = record(parseJson(await Bun.stdin.text(), "state on stdin"));
    const bundle = text(state["bundle"]);
    const path = join(bundle, "config.json");
    const spec = record(parseJson(await readFile(path, "utf8"), path));
    const functions = hookFunctions(state, text(record(spec["root"])["path"]));
    const argv = args.map((arg) => renderTemplate(arg, functions));
    const env = Object.entries(io.env).map(([key, value]) => renderTemplate(`${key}=${value ?? ""}`, functions));
    const [program] = argv;
    if (program === undefined) throw classified("invalid-argument", "run hook: no program given");
    const { replaceProcess } = await import("@stevedore/os/exec");
    return replaceProcess(program, { argv, env });
  },
});

function hookFunctions(state: Readonly<Record<string, unknown>>, root: string): TemplateFunctions {
  const bundle = text(state["bundle"]);
  const pid = state["pid"];
  const annotations = record(state["annotations"]);
  const plain = (value: string) => ({ parameter: false, value: () => value }) as const;
  return {
    id: plain(text(state["id"])),
    bundle: plain(bundle),
    rootfs: plain(isAbsolute(root) ? root : join(bundle, root)),
    pid: plain(typeof pid === "number" ? String(pid) : "0"),
    status: plain(text(state["status"])),
    annotation: { parameter: true, value: (key) => text(annotations[key]) },
  };
}

function parseJson(source: string, what: string): unknown {
  try {
    return JSON.parse(source);
  } catch (error) {
    throw classified("invalid-argument", `read ${what}: ${messageOf(error)}`);
  }
}

function record(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? { ...value } : {};
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}
