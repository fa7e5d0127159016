import { classified } from "@stevedore/base";
import type { ExplainedAuth, ExplainedHost, Explanation, HostFailure } from "@stevedore/registry";
import { describeFailure } from "@stevedore/registry";
import { boolFlag } from "../../kit/flags.ts";
import { stevedoreCommand } from "../main.ts";
import { REGISTRY_FLAGS, registryClient } from "./client.ts";

/** `stevedore registry explain` */
export const command = stevedoreCommand({
  argsUsage: "[flags] IMAGE",
  description:
    "Tells, without the daemon, which hosts would serve an image and in which order, where each of their settings comes from, which account is used and how it is found. With --live each host is asked as well. Ends with 1 when a host that was asked does not answer.",
  flags: {
    ...REGISTRY_FLAGS,
    live: boolFlag("live", "ask each host, without and with the account"),
    json: boolFlag("json", "print one JSON object"),
  },
  action: async ({ args, flags, io }) => {
    const [reference] = args;
    if (reference === undefined) throw classified("invalid-argument", "explain: want the reference of an image");
    const client = registryClient(flags, reference, io);
    try {
      const explained = await client.explain(reference, { live: flags.live, signal: io.signal });
      io.stdout.write(flags.json ? `${JSON.stringify(explained, undefined, 2)}\n` : textOf(explained));
      return explained.hosts.every(({ live }) => live?.ok !== false) ? 0 : 1;
    } finally {
      client.close();
    }
  },
});

function textOf({ reference, repository, tag, digest, hosts }: Explanation): string {
  const what = [tag === "" ? "" : `tag ${tag}`, digest].filter((part) => part !== "").join(", ");
  const lines = [reference, `  repository ${repository}${what === "" ? "" : `, ${what}`}`];
  for (const [at, host] of hosts.entries()) lines.push(...hostLines(host, at + 1));
  return `${lines.join("\n")}\n`;
}

function* hostLines(host: ExplainedHost, number: number): Generator<string> {
  yield `  ${number}. ${host.api}${host.own ? "" : " (mirror)"}`;
  const line = (name: string, value: string): string => `     ${name.padEnd(13)} ${value}`;
  yield line("for", host.capabilities.join(", "));
  yield line("tls", host.tls + (host.plainFallback ? ", plain HTTP when the host speaks no TLS" : ""));
  if (host.proxy !== undefined) yield line("proxy", host.proxy);
  yield line("account", accountText(host.auth));
  for (const { name, value, from } of host.settings) yield line(name, `${value} (${from})`);
  if (host.lastError !== undefined) yield line("last error", failureText(host.lastError.failure));
  const { live } = host;
  if (live === undefined) return;
  const status = live.status === undefined ? "" : `, status ${live.status}`;
  yield line("live", `${live.ok ? "ok" : "not ok"}${status}, ${live.ms.toFixed(0)} ms`);
  for (const challenge of live.challenges) yield line("asks for", challenge);
  if (live.failure !== undefined) yield line("because", failureText(live.failure));
}

function failureText(failure: HostFailure): string {
  return describeFailure(failure).replaceAll("\n", " ");
}

function accountText(auth: ExplainedAuth): string {
  if (auth.kind === "anonymous") return "none (anonymous)";
  if (auth.kind === "failed") return `cannot be told: ${auth.reason}`;
  return `${auth.username ?? auth.kind} (${auth.kind}, ${auth.from})`;
}
