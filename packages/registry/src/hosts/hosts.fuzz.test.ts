import { expect, test } from "bun:test";
import { ClassifiedError } from "@stevedore/base";
import { fuzzing, fuzzLimitMs } from "@stevedore/base/test-fuzz";
import * as fc from "fast-check";
import { parseChallenges } from "../auth/challenge.ts";
import { parseDockerConfig } from "../auth/docker-config.ts";
import { TransportError } from "../http/failure.ts";
import { parseHead } from "../http/head.ts";
import { readErrorBody } from "../request.ts";
import { parseHostsToml } from "./hosts-toml.ts";

const HOSTS = `server = "https://registry.example"
capabilities = ["pull"]
[host."https://mirror.example"]
  capabilities = ["pull", "resolve"]
  ca = ["a.pem", "b.pem"]
  client = [["c.pem", "k.pem"]]
  skip_verify = false
  override_path = true
  dial_timeout = "5s"
  [host."https://mirror.example".header]
    x-key = ["1"]
`;
const DOCKER = JSON.stringify({
  auths: { "https://index.docker.io/v1/": { auth: "YTpi" }, "r.example": { username: "u", password: "p" } },
  credsStore: "pass",
  credHelpers: { "gcr.io": "gcloud" },
});
const HEAD = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDocker-Content-Digest: sha256:aa\r\nConnection: keep-alive";
const CHALLENGE = 'Bearer realm="https://auth.example/token",service="s",scope="repository:a:pull", Basic realm="x"';

/** The text after some cuts and insertions. */
function damaged(text: string): fc.Arbitrary<string> {
  const change = fc.record({
    at: fc.nat(text.length - 1),
    cut: fc.nat(8),
    put: fc.string({ unit: fc.constantFrom(...Array.from("[]{}\"'=.,#\\:/ab\n\r\0\u201c ")), maxLength: 5 }),
  });
  return fc.array(change, { minLength: 1, maxLength: 4 }).map((changes) => {
    let made = text;
    for (const { at, cut, put } of changes) made = made.slice(0, at) + put + made.slice(at + cut);
    return made;
  });
}

const LIMIT = fuzzLimitMs();

test(
  "C17 a damaged hosts.toml is read or refused, with the file and a line",
  async () => {
    const property = fc.asyncProperty(damaged(HOSTS), async (text) => {
      try {
        const { mirrors, server } = await parseHostsToml(text, "h.toml");
        for (const { address } of [...mirrors, server]) expect(address?.host).not.toBe("");
      } catch (error) {
        expect(error).toBeInstanceOf(ClassifiedError);
        expect(String(error)).toMatch(/read h\.toml: line \d+/);
      }
    });
    await fc.assert(property, fuzzing(4));
  },
  LIMIT,
);

test(
  "C17 a damaged docker config is read or refused, with the file",
  () => {
    const property = fc.property(damaged(DOCKER), (text) => {
      try {
        expect(typeof parseDockerConfig(text, "c.json").auths).toBe("object");
      } catch (error) {
        expect(error).toBeInstanceOf(ClassifiedError);
        expect(String(error)).toContain("read docker config c.json");
      }
    });
    fc.assert(property, fuzzing(4));
  },
  LIMIT,
);

test(
  "C12 damaged heads and challenges are read or refused",
  () => {
    const property = fc.property(damaged(HEAD), damaged(CHALLENGE), (head, challenge) => {
      parseChallenges(new Map([["www-authenticate", [challenge]]]));
      try {
        expect(parseHead(head).status).toBeGreaterThan(99);
      } catch (error) {
        expect(error).toBeInstanceOf(TransportError);
      }
    });
    fc.assert(property, fuzzing(4));
  },
  LIMIT,
);

test(
  "C12 any error body becomes a short text",
  () => {
    const json = fc.json().map((text) => Buffer.from(`{"errors":[${text}]}`));
    const property = fc.property(fc.oneof(fc.uint8Array(), json), (body) => {
      const { codes, text } = readErrorBody(body);
      expect(text.length + JSON.stringify(codes).length).toBeLessThan(4000);
    });
    fc.assert(property, fuzzing(4));
  },
  LIMIT,
);
