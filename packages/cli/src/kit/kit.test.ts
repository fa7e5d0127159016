import { describe, expect, test } from "bun:test";
import { boolFlag, durationFlag, formatDuration, intFlag, parseDuration, stringFlag, stringsFlag } from "./flags.ts";
import { formatBytes } from "./format.ts";
import { memoryOutput } from "./output.ts";
import { parseFlags } from "./parse.ts";
import { defineCommand, type Program, runProgram } from "./program.ts";
import { LIST_TABLE, tabwrite, WIDE_TABLE } from "./tabwriter.ts";

const FLAGS = {
  quiet: boolFlag("quiet", "print only the ids", { aliases: ["q"] }),
  name: stringFlag("name", "a name", { env: ["KIT_NAME"] }),
  label: stringsFlag("label", "labels"),
  size: intFlag("size", "size", { unsigned: true }),
  wait: durationFlag("wait", "how long", { initialMs: 1000 }),
};

describe("parseFlags() follows Go's rules", () => {
  const parse = (...args: string[]) => parseFlags(FLAGS, args, { env: {} });
  test("one or two dashes, with space or equals", () => {
    expect(parse("-name", "a", "--size=7", "-q", "x", "-q").values).toEqual({
      quiet: true,
      name: "a",
      label: [],
      size: 7,
      wait: 1000,
    });
  });
  test("stops at the first argument and at --", () => {
    expect(parse("-q", "x", "--name", "y").rest).toEqual(["x", "--name", "y"]);
    expect(parse("--", "-q").rest).toEqual(["-q"]);
    expect(parse("-", "-q").rest).toEqual(["-", "-q"]);
  });
  test("flags may follow leading arguments where a command allows that", () => {
    const parsed = parseFlags(FLAGS, ["img", "id", "--name", "a", "sh", "-q"], { env: {}, leadingArguments: 2 });
    expect(parsed.rest).toEqual(["img", "id", "sh", "-q"]);
    expect(parsed.values.name).toBe("a");
  });
  test("repeated flags collect", () => {
    expect(parse("--label", "a=b", "-label=c=d").values.label).toEqual(["a=b", "c=d"]);
  });
  test("environment fills in what is absent", () => {
    expect(parseFlags(FLAGS, [], { env: { KIT_NAME: "env" } }).values.name).toBe("env");
    expect(parseFlags(FLAGS, ["--name", "arg"], { env: { KIT_NAME: "env" } }).values.name).toBe("arg");
  });
  test.each([
    [["--xx"], "flag provided but not defined: -xx"],
    [["--name"], "flag needs an argument: -name"],
    [["--size", "abc"], 'invalid value "abc" for flag -size: parse error'],
    [["--size", "-1"], 'invalid value "-1" for flag -size: parse error'],
    [["--quiet=maybe"], 'invalid boolean value "maybe" for -quiet: parse error'],
    [["---x"], "bad flag syntax: ---x"],
  ])("%p is refused with Go's text", (args, message) => {
    expect(() => parse(...args)).toThrow(message);
  });
});

test("durations read and print as in Go", () => {
  for (const [text, ms] of [
    ["0s", 0],
    ["30s", 30_000],
    ["1h0m0s", 3_600_000],
    ["1m30s", 90_000],
    ["1.5s", 1500],
    ["250ms", 250],
  ] as const) {
    expect(parseDuration(text)).toBe(ms);
    expect(formatDuration(ms)).toBe(text);
  }
});

test("formatBytes() prints as the peer", () => {
  expect(formatBytes(0)).toBe("0.0 B");
  expect(formatBytes(1_038_131)).toBe("1013.8 KiB");
  expect(formatBytes(4096)).toBe("4.0 KiB");
});

describe("tabwrite() lays out as Go's text/tabwriter", () => {
  test("list table", () => {
    expect(tabwrite("NAME\tLABELS\t\ndefault\t\t\nn1\ta=b\t\n", LIST_TABLE)).toBe(
      "NAME    LABELS \ndefault        \nn1      a=b    \n",
    );
  });
  test("wide table", () => {
    expect(tabwrite("TASK\tPID\tSTATUS\t\nr2\t6758\tRUNNING\t\n", WIDE_TABLE)).toBe(
      "TASK    PID     STATUS     \nr2      6758    RUNNING    \n",
    );
  });
  test("columns end with a line that has no such cell", () => {
    expect(tabwrite("a\tb\tc\nlonger\tx\ty\n\nz\tq\n", LIST_TABLE)).toBe("a      b c\nlonger x y\n\nz q\n");
  });
});

describe("runProgram()", () => {
  const program: Program<typeof FLAGS, undefined> = {
    name: "kit",
    usage: "test program",
    version: "1",
    versionLine: "kit 1",
    flags: FLAGS,
    globals: () => undefined,
    commands: [
      {
        names: ["group", "g"],
        usage: "a group",
        load: async () => ({
          kind: "group",
          flags: {},
          commands: [
            {
              names: ["leaf", "l"],
              usage: "a leaf",
              load: async () =>
                defineCommand<undefined>()({
                  flags: { all: boolFlag("all", "everything", { aliases: ["a"] }) },
                  argsUsage: "[flags] NAME",
                  action: async ({ args, flags, io }) => {
                    if (args.length === 0) throw new Error("please give a name");
                    io.stdout.write(`${args.join(",")} ${flags.all}\n`);
                    return 0;
                  },
                }),
            },
          ],
        }),
      },
    ],
  };
  const run = async (...argv: string[]) => {
    const stdout = memoryOutput();
    const stderr = memoryOutput();
    const code = await runProgram(program, argv, { stdout, stderr, env: {}, signal: new AbortController().signal });
    return { code, out: stdout.text(), err: stderr.text() };
  };
  test("walks names and aliases", async () => {
    expect(await run("g", "l", "-a", "x")).toEqual({ code: 0, out: "x true\n", err: "" });
  });
  test("prints an error as <name>: <message> and exits with 1", async () => {
    expect(await run("group", "leaf")).toEqual({ code: 1, out: "", err: "kit: please give a name\n" });
  });
  test("an undefined flag prints the page", async () => {
    const { code, out, err } = await run("g", "leaf", "--zz");
    expect(code).toBe(1);
    expect(err).toBe("kit: flag provided but not defined: -zz\n");
    expect(out).toStartWith(
      "Incorrect Usage: flag provided but not defined: -zz\n\nNAME:\n   kit group leaf - a leaf\n",
    );
  });
  test("an unknown command exits with 3", async () => {
    expect(await run("nope")).toEqual({ code: 3, out: "", err: "No help topic for 'nope'\n" });
  });
  test("help of a group lists its commands", async () => {
    expect((await run("g", "--help")).out).toContain("COMMANDS:\n   leaf, l  a leaf\n   help, h  Shows a list");
  });
});
