import { describe, expect, test } from "bun:test";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { failureFrom } from "../testing/fixture.ts";
import type { Credential, CredentialQuery } from "./credentials.ts";
import { dockerConfigSource, parseDockerConfig } from "./docker-config.ts";
import type { HelperRunner } from "./helper.ts";
import { processHelpers } from "./helper-process.ts";

const signal = new AbortController().signal;
const query = (host: string, namespace = host): CredentialQuery => ({ host, namespace, own: true, signal });
const base64 = (text: string): string => Buffer.from(text).toString("base64");

function source(config: unknown, helpers?: HelperRunner) {
  return dockerConfigSource({
    file: "/c.json",
    read: async () => Buffer.from(JSON.stringify(config)),
    ...(helpers === undefined ? {} : { helpers }),
  });
}

describe("a docker config", () => {
  test("gives what its auths hold, by host, with the old key of Docker Hub", async () => {
    const config = {
      auths: {
        "https://index.docker.io/v1/": { auth: base64("hub:pass:with:colons") },
        "registry.example:5000": { username: "u", password: "p" },
        "https://other.example/v2/": { identitytoken: "idt" },
        "token.example": { registrytoken: "rgt", auth: base64("a:b") },
        "empty.example": {},
      },
      HttpHeaders: { x: 1 },
    };
    const find = async (host: string, namespace?: string): Promise<Credential | undefined> =>
      source(config).find(query(host, namespace));
    expect(await find("registry-1.docker.io", "docker.io")).toMatchObject({
      username: "hub",
      password: "pass:with:colons",
    });
    expect(await find("registry.example:5000")).toMatchObject({ kind: "basic", username: "u", password: "p" });
    expect(await find("registry.example")).toBeUndefined();
    expect(await find("other.example")).toMatchObject({ kind: "identity-token", token: "idt" });
    expect(await find("token.example")).toMatchObject({ kind: "registry-token", token: "rgt" });
    expect(await find("empty.example")).toBeUndefined();
    // A mirror of Docker Hub is another host.
    expect(await find("mirror.example", "docker.io")).toBeUndefined();
  });

  test("asks helpers: the host's, then the one for all, then its own entries", async () => {
    const calls: string[] = [];
    const helpers: HelperRunner = async (program, args, { stdin }) => {
      calls.push(`${program} ${args.join(" ")} ${stdin.trim()}`);
      const known = stdin.includes("known");
      const out = known
        ? '{"ServerURL":"x","Username":"<token>","Secret":"idt"}'
        : "credentials not found in native keychain\n";
      return { code: known ? 0 : 1, stdout: Buffer.from(out), stderr: new Uint8Array() };
    };
    const config = {
      credsStore: "all",
      credHelpers: { "known.example": "one" },
      auths: { "own.example": { auth: base64("a:b") } },
    };
    const at = source(config, helpers);
    expect(await at.find(query("known.example"))).toMatchObject({ kind: "identity-token", token: "idt" });
    expect(await at.find(query("own.example"))).toMatchObject({ kind: "basic", username: "a" });
    await at.find(query("registry-1.docker.io", "docker.io"));
    expect(calls).toEqual([
      "docker-credential-one get known.example",
      "docker-credential-all get own.example",
      "docker-credential-all get https://index.docker.io/v1/",
    ]);
  });

  test("tells what is wrong with file and key, and no value", async () => {
    const problems: readonly (readonly [string, string])[] = [
      ['{"auths":{"a":{"auth":"not base64!"}}}', 'docker config /c.json, auths."a": the value of "auth" is not base64'],
      [
        '{"auths":{"a":{"password":["hunter22"]}}}',
        "/c.json: auths.a.password: found another kind of value, want a string",
      ],
      ['{"auths":"hunter22"}', "/c.json: auths: found another kind of value, want an object"],
      ['{"auths":{"a":{"auth":"hunter22"', "read docker config /c.json: "],
      ["hunter22", "read docker config /c.json: "],
    ];
    for (const [text, message] of problems) {
      const at = dockerConfigSource({ file: "/c.json", read: async () => Buffer.from(text) });
      const error = await failureFrom(at.find(query("a")));
      expect(error.message).toContain(message);
      expect(error.message).not.toContain("hunter22");
    }
  });

  test("is read again when it changed", async () => {
    let text = '{"auths":{"a":{"username":"one","password":"p"}}}';
    const at = dockerConfigSource({ file: "/c.json", read: async () => Buffer.from(text) });
    expect(await at.find(query("a"))).toMatchObject({ username: "one" });
    text = text.replace("one", "two");
    expect(await at.find(query("a"))).toMatchObject({ username: "two" });
  });

  test("that is missing knows nothing", async () => {
    expect(await dockerConfigSource({ file: "/c.json", read: async () => undefined }).find(query("a"))).toBeUndefined();
  });

  test("with a helper and nobody to start it is an error", async () => {
    expect((await failureFrom(source({ credsStore: "x" }).find(query("a")))).message).toContain(
      "no helper can be started here",
    );
  });

  test("keeps keys that objects have of their own", () => {
    const config = parseDockerConfig('{"auths":{"__proto__":{"username":"u","password":"p"},"constructor":{}}}', "c");
    expect(Object.keys(config.auths)).toEqual(["__proto__", "constructor"]);
  });
});

describe("helpers as processes", () => {
  test("speak docker's protocol, and fail with their words", async () => {
    const folder = await mkdtemp(join(tmpdir(), "registry-helper-"));
    try {
      const write = async (name: string, script: string): Promise<void> =>
        writeFile(join(folder, `docker-credential-${name}`), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
      await write("good", 'read server; printf \'{"Username":"u-%s","Secret":"s"}\' "$server"');
      await write("bad", "echo 'the keyring is locked' >&2; exit 2");
      await write("wild", "echo half-a-secret");
      await write("loud", "head -c 1000000 /dev/zero");
      await write("slow", "sleep 100");
      const environment = { PATH: `${folder}:${process.env["PATH"] ?? ""}` };
      const find = async (name: string, timeoutMs = 20_000): Promise<unknown> =>
        source({ credHelpers: { h: name } }, processHelpers({ environment, timeoutMs })).find(query("h"));
      expect(await find("good")).toMatchObject({ kind: "basic", username: "u-h", password: "s" });
      expect((await failureFrom(find("bad"))).message).toContain("exit status 2: the keyring is locked");
      const wild = (await failureFrom(find("wild"))).message;
      expect(wild).toContain("the answer is no JSON of Username and Secret");
      expect(wild).not.toContain("half-a-secret");
      expect((await failureFrom(find("loud"))).message).toContain("more than 65536 bytes");
      await failureFrom(find("slow", 200));
      expect((await failureFrom(find("none"))).message).toContain("docker-credential-none");
      expect((await failureFrom(find("../../bin/sh"))).message).toContain("not a helper's name");
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});
