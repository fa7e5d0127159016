// Repairs what a tool can: format and import order, lint, checked-in lists. With --generated-only just the lists.
import { writeDependencyLists } from "./checks/deps.ts";
import { run, say, tool } from "./project.ts";

async function step(command: readonly string[]): Promise<void> {
  const ran = await run(command);
  if (ran.code !== 0) say(`${ran.stdout}${ran.stderr}`.trimEnd());
}

if (!process.argv.includes("--generated-only")) {
  await step([...tool("oxlint"), "--fix", "packages", "tests", "tools", "bench"]);
  await step([...tool("biome"), "check", "--write"]);
}
await writeDependencyLists();
