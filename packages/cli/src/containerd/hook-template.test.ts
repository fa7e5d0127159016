import { expect, test } from "bun:test";
import { renderTemplate } from "./hook-template.ts";

const FUNCTIONS = {
  id: { parameter: false, value: () => "c1" },
  annotation: { parameter: true, value: (key: string) => (key === "a.b" ? "x" : "") },
} as const;

test("calls with and without an argument, and what stands around them", () => {
  expect(renderTemplate("--id={{id}}", FUNCTIONS)).toBe("--id=c1");
  expect(renderTemplate('a {{- annotation "a.b" -}} b', FUNCTIONS)).toBe("axb");
  expect(renderTemplate("{{ annotation `none` }}|{{/* note */}}|", FUNCTIONS)).toBe("||");
  expect(renderTemplate("HOME=/root", FUNCTIONS)).toBe("HOME=/root");
});

test("what no template is", () => {
  expect(() => renderTemplate("{{nope}}", FUNCTIONS)).toThrow('function "nope" not defined');
  expect(() => renderTemplate("{{id", FUNCTIONS)).toThrow("unclosed action");
  expect(() => renderTemplate("{{annotation}}", FUNCTIONS)).toThrow("want 1 got 0");
});
