import { expect, test } from "bun:test";

test("the process becomes the program, with its arguments, environment and clean signals", async () => {
  const code = `import { replaceProcess } from ${JSON.stringify(`${import.meta.dirname}/exec.ts`)};
    replaceProcess("/bin/sh", { argv: ["sh", "-c", 'echo "$0 $A $$"; ulimit -n; grep SigIgn /proc/self/status', "zero"], env: ["A=1", "STEVEDORE_NOFILE=1024:4096"] });`;
  const child = Bun.spawn([process.execPath, "-e", code], { stdout: "pipe", env: { STEVEDORE_NOFILE: "777:4096" } });
  const [said, ignored] = [await new Response(child.stdout).text(), "SigIgn:\t0000000000000000"];
  expect(said.startsWith(`zero 1 ${child.pid}\n`)).toBe(true);
  expect(said).toContain(ignored);
});

test("a program that is not there", async () => {
  const code = `import { replaceProcess } from ${JSON.stringify(`${import.meta.dirname}/exec.ts`)};
    try { replaceProcess("/no/such", { argv: ["x"], env: [] }); } catch (error) { console.log(error.errorClass, error.message); }`;
  const child = Bun.spawn([process.execPath, "-e", code], { stdout: "pipe" });
  expect(await new Response(child.stdout).text()).toContain("not-found");
});
