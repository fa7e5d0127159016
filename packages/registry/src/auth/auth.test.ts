import { describe, expect, test } from "bun:test";
import { errorClassOf } from "@stevedore/base";
import { defaultHost } from "../hosts/defaults.ts";
import { formatHttpEvent } from "../http/observe.ts";
import { collect, descriptorOf, failureFrom, putImage, quickClient, someBytes } from "../testing/fixture.ts";
import { answer, TestRegistry } from "../testing/test-registry.ts";
import { parseChallenges } from "./challenge.ts";
import { type Credential, type CredentialSource, credentialFor, firstOf } from "./credentials.ts";

const USERS = { alice: "correct-horse" };

function always(credential: Credential | undefined): CredentialSource & { asked: number } {
  return {
    name: "a test",
    asked: 0,
    async find() {
      this.asked += 1;
      return credential;
    },
  };
}

const ALICE: Credential = { kind: "basic", username: "alice", password: "correct-horse", from: "a test" };

describe("basic", () => {
  test("is given after the first 401, and then at once", async () => {
    await using registry = await TestRegistry.start({ auth: { kind: "basic", users: USERS } });
    putImage(registry, "a", "v1");
    const source = always(ALICE);
    const client = quickClient({ credentials: source });
    await client.resolve(`${registry.host}/a:v1`);
    await client.resolve(`${registry.host}/a:v1`);
    expect(registry.log).toHaveLength(3);
    expect(source.asked).toBe(1);
  });

  test("fails with a reason when wrong, or when there is none, and shows no secret", async () => {
    await using registry = await TestRegistry.start({ auth: { kind: "basic", users: USERS } });
    const wrong = quickClient({ credentials: always({ ...ALICE, password: "wrong-horse-battery" }) });
    const error = await failureFrom(wrong.resolve(`${registry.host}/a:v1`));
    expect(errorClassOf(error)).toBe("unauthenticated");
    expect(error.message).toContain("authorization failed");
    expect(`${error.message} ${JSON.stringify(error)} ${String(error.stack)}`).not.toContain("wrong-horse-battery");
    expect(registry.log).toHaveLength(2);
    const none = await failureFrom(quickClient().resolve(`${registry.host}/a:v1`));
    expect(none.message).toContain("authorization failed: no basic auth credentials");
  });

  test("is asked for again when a password was changed", async () => {
    const users: Record<string, string> = { ...USERS };
    await using registry = await TestRegistry.start({ auth: { kind: "basic", users } });
    putImage(registry, "a", "v1");
    let password = "correct-horse";
    const client = quickClient({
      credentials: {
        name: "a file",
        find: async () => ({ kind: "basic", username: "alice", password, from: "a file" }),
      },
    });
    await client.resolve(`${registry.host}/a:v1`);
    users["alice"] = password = "new-password";
    await client.resolve(`${registry.host}/a:v1`);
  });
});

describe("token", () => {
  test("is fetched once for each scope, anonymous where that is enough", async () => {
    await using registry = await TestRegistry.start({ auth: { kind: "token", users: USERS, public: ["a"] } });
    const { layer } = putImage(registry, "a", "v1");
    const client = quickClient();
    const { descriptor } = await client.resolve(`${registry.host}/a:v1`);
    await client.fetchDocument(`${registry.host}/a:v1`, descriptor);
    await Promise.all(
      Array.from({ length: 5 }, async () =>
        collect((await client.fetch(`${registry.host}/a:v1`, descriptorOf(layer))).body),
      ),
    );
    const tokens = registry.log.filter((line) => line.includes("/token"));
    expect(tokens).toEqual(["GET /token?service=test&scope=repository%3Aa%3Apull"]);
    const error = await failureFrom(client.resolve(`${registry.host}/private:v1`));
    expect(error.message).toContain("no credentials are known for this host");
    expect(errorClassOf(error)).toBe("unauthenticated");
  });

  test("is fetched by POST with a credential, by GET where there is no POST", async () => {
    for (const post of [true, false]) {
      await using registry = await TestRegistry.start({ auth: { kind: "token", users: USERS, post } });
      putImage(registry, "a", "v1");
      await quickClient({ credentials: always(ALICE) }).resolve(`${registry.host}/a:v1`);
      const methods = registry.seen.filter(({ path }) => path.startsWith("/token")).map(({ method }) => method);
      expect(methods).toEqual(post ? ["POST"] : ["POST", "GET"]);
    }
  });

  test("is fetched with an identity token, and a registry token is used as it is", async () => {
    await using registry = await TestRegistry.start({
      auth: { kind: "token", users: USERS, identityToken: "long-lived-token" },
    });
    putImage(registry, "a", "v1");
    const identity: Credential = { kind: "identity-token", token: "long-lived-token", from: "a test" };
    await quickClient({ credentials: always(identity) }).resolve(`${registry.host}/a:v1`);
    const given: Credential = { kind: "registry-token", token: "ready-made-token", from: "a test" };
    const error = await failureFrom(quickClient({ credentials: always(given) }).resolve(`${registry.host}/a:v1`));
    expect(registry.seen.at(-1)?.headers["authorization"]).toBe("Bearer ready-made-token");
    expect(error.message).not.toContain("ready-made-token");
  });

  test("is renewed when it ends, or is not taken any more", async () => {
    let now = Date.now();
    await using registry = await TestRegistry.start({
      auth: { kind: "token", users: USERS, public: ["a"], expiresIn: 100 },
    });
    putImage(registry, "a", "v1");
    const client = quickClient({ now: () => now });
    const tokens = (): number => registry.log.filter((line) => line.includes("/token")).length;
    await client.resolve(`${registry.host}/a:v1`);
    registry.revokeTokens();
    await client.resolve(`${registry.host}/a:v1`);
    expect(tokens()).toBe(2);
    await client.resolve(`${registry.host}/a:v1`);
    expect(tokens()).toBe(2);
    now += 96_000;
    await client.resolve(`${registry.host}/a:v1`);
    expect(tokens()).toBe(3);
  });

  test("is fetched with the new password when it was changed", async () => {
    let now = Date.now();
    const users: Record<string, string> = { ...USERS };
    await using registry = await TestRegistry.start({ auth: { kind: "token", users, post: false } });
    putImage(registry, "a", "v1");
    let password = "correct-horse";
    const client = quickClient({
      now: () => now,
      credentials: {
        name: "a file",
        find: async () => ({ kind: "basic", username: "alice", password, from: "a file" }),
      },
    });
    await client.resolve(`${registry.host}/a:v1`);
    users["alice"] = password = "new-password";
    now += 1_000_000;
    await client.resolve(`${registry.host}/a:v1`);
  });

  test("server that is gone, or slow, or busy is told by its name", async () => {
    const gone = await TestRegistry.start();
    const realm = `${gone.url}/token`;
    await gone.stop();
    await using registry = await TestRegistry.start({ auth: { kind: "token", users: USERS, realm } });
    const error = await failureFrom(quickClient().resolve(`${registry.host}/a:v1`));
    expect(error.message).toContain(`token server ${realm}: dial: connection refused`);
    expect(errorClassOf(error)).toBe("unavailable");
    let busy = 0;
    await using other = await TestRegistry.start({ auth: { kind: "token", users: USERS, public: ["a"] } });
    putImage(other, "a", "v1");
    other.faults.push((request, response) => {
      if (!request.path.startsWith("/token") || busy++ > 0) return false;
      answer(response, 503, "");
      return true;
    });
    await quickClient().resolve(`${other.host}/a:v1`);
    expect(busy).toBe(2);
  });

  test("has the scopes of a push, and those of a mount's source", async () => {
    await using registry = await TestRegistry.start({ auth: { kind: "token", users: USERS } });
    const bytes = someBytes(100);
    registry.putBlob("other", bytes);
    const client = quickClient({ credentials: always(ALICE) });
    const pushed = await client.push(`${registry.host}/a:v1`, descriptorOf(bytes), () => someChunks(bytes), {
      mountFrom: ["other"],
    });
    expect(pushed.state).toBe("mounted");
    const scopes = registry.seen.flatMap(({ form }) => new URLSearchParams(form).get("scope") ?? []);
    expect(scopes).toEqual(["repository:a:pull,push", "repository:a:pull,push repository:other:pull"]);
  });

  test("takes a scope from the challenge that was not thought of", async () => {
    await using registry = await TestRegistry.start({ auth: { kind: "token", users: USERS, public: ["proxy/a"] } });
    putImage(registry, "proxy/a", "v1");
    const client = quickClient({
      hosts: {
        hosts: async () => [
          {
            scheme: "http",
            host: registry.host,
            path: "/v2/proxy",
            capabilities: new Set(["pull", "resolve"]),
            plainFallback: false,
            own: false,
            tls: {},
            headers: [],
            origins: {},
          },
        ],
      },
    });
    await client.resolve("docker.io/a:v1");
    const before = registry.log.length;
    await client.resolve("docker.io/a:v1");
    expect(registry.log.length).toBe(before + 1);
  });

  test("of a server on another host is fetched there, with the credentials", async () => {
    await using tokens = await TestRegistry.start({ auth: { kind: "token", users: USERS } });
    await using registry = await TestRegistry.start({
      auth: { kind: "token", users: {}, realm: `${tokens.url}/token` },
    });
    registry.shareTokensOf(tokens);
    putImage(registry, "a", "v1");
    await quickClient({ credentials: always(ALICE) }).resolve(`${registry.host}/a:v1`);
    expect(tokens.seen[0]?.form).toContain("password=correct-horse");
  });

  test("server that redirects elsewhere gets no further, and the error no secret", async () => {
    await using thief = await TestRegistry.start();
    await using registry = await TestRegistry.start({ auth: { kind: "token", users: USERS } });
    registry.faults.push((request, response) => {
      if (!request.path.startsWith("/token")) return false;
      response.setHeader("Location", `${thief.url}/steal?password=correct-horse`);
      answer(response, 307, "");
      return true;
    });
    const error = await failureFrom(quickClient({ credentials: always(ALICE) }).resolve(`${registry.host}/a:v1`));
    expect(error.message).toContain("which gets no credentials");
    expect(error.message).not.toContain("correct-horse");
    expect(thief.seen).toEqual([]);
  });

  test("server's answer is bounded and checked", async () => {
    const bodies: readonly (readonly [string, string])[] = [
      ["{}", "its answer has no token"],
      ["<html>", "its answer is no JSON"],
      [`{"token":"${"x".repeat(2 << 20)}"}`, "its answer is no JSON, too long"],
      ['{"token":"a\\nb"}', "characters that cannot be sent"],
      ['{"token":7}', "its answer has no token"],
    ];
    for (const [body, reason] of bodies) {
      await using registry = await TestRegistry.start({ auth: { kind: "token", users: USERS } });
      registry.faults.push((request, response) => {
        if (!request.path.startsWith("/token")) return false;
        answer(response, 200, body);
        return true;
      });
      const error = await failureFrom(quickClient().resolve(`${registry.host}/a:v1`));
      expect(error.message).toContain(reason);
      expect(error.message.length).toBeLessThan(700);
    }
  });
});

async function* someChunks(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

describe("what happens on the wire", () => {
  test("is told without secrets", async () => {
    await using registry = await TestRegistry.start({ auth: { kind: "token", users: USERS } });
    const { layer } = putImage(registry, "a", "v1");
    const text: string[] = [];
    const client = quickClient({ credentials: always(ALICE), observe: (event) => text.push(formatHttpEvent(event)) });
    await collect((await client.fetch(`${registry.host}/a:v1`, descriptorOf(layer))).body);
    const all = text.join("");
    expect(all).toContain(`GET /v2/a/blobs/${descriptorOf(layer).digest} HTTP/1.1\nHost: ${registry.host}\n`);
    expect(all).toContain("HTTP/1.1 401 Unauthorized\n");
    expect(all).toContain("POST /token HTTP/1.1\n");
    expect(all).toContain("Authorization: xxxxx\n");
    expect(all).toMatch(/connection to http:\/\/127\.0\.0\.1:\d+: 127\.0\.0\.1:\d+, reused\n/);
    expect(all).not.toContain("correct-horse");
    for (const { headers } of registry.seen) {
      const sent = String(headers["authorization"] ?? "none");
      if (sent !== "none") expect(all).not.toContain(sent.split(" ")[1] ?? "");
    }
  });
});

describe("credentials", () => {
  test("may be the whole header, and are asked for with the challenge", async () => {
    await using registry = await TestRegistry.start({ auth: { kind: "basic", users: USERS } });
    putImage(registry, "a", "v1");
    const asked: unknown[] = [];
    const value = `Basic ${Buffer.from("alice:correct-horse").toString("base64")}`;
    const client = quickClient({
      credentials: {
        name: "a stream",
        find: async ({ host, own, challenges }) => {
          asked.push({ host, own, challenges });
          return { kind: "header", value, from: "a stream" };
        },
      },
    });
    await client.resolve(`${registry.host}/a:v1`);
    expect(asked).toEqual([{ host: registry.host, own: true, challenges: ['Basic realm="test registry"'] }]);
  });

  test("do not follow a redirect to another host, nor to another port", async () => {
    await using store = await TestRegistry.start();
    await using registry = await TestRegistry.start({ auth: { kind: "basic", users: USERS } });
    const bytes = someBytes(10_000);
    store.faults.push((_, response) => {
      response.end(bytes);
      return true;
    });
    registry.putBlob("a", bytes);
    registry.faults.push((request, response) => {
      if (request.headers["authorization"] === undefined || !request.path.includes("/blobs/")) return false;
      response.setHeader("Location", `${store.url.replace("127.0.0.1", "localhost")}/blob?X-Amz-Signature=abc`);
      answer(response, 307, "");
      return true;
    });
    const client = quickClient({ credentials: always(ALICE), headers: { "X-Registry-Key": "k" } });
    const fetched = await client.fetch(`${registry.host}/a:v1`, descriptorOf(bytes), { verify: true });
    expect((await collect(fetched.body)).byteLength).toBe(bytes.byteLength);
    expect(store.seen).toHaveLength(1);
    expect(store.seen[0]?.headers["authorization"]).toBeUndefined();
    expect(store.seen[0]?.headers["x-registry-key"]).toBeUndefined();
    expect(registry.seen.at(-1)?.headers["x-registry-key"]).toBe("k");
  });

  test("are not asked for by a host that a redirect or a descriptor leads to", async () => {
    await using thief = await TestRegistry.start({ auth: { kind: "basic", users: USERS } });
    await using registry = await TestRegistry.start();
    const bytes = someBytes(100);
    const source = always(ALICE);
    const client = quickClient({ credentials: source });
    const descriptor = { ...descriptorOf(bytes), urls: [`${thief.url}/v2/a/blobs/x`] };
    const error = await failureFrom(client.fetch(`${registry.host}/a:v1`, descriptor));
    expect(error.message).toContain("401 Unauthorized");
    registry.faults.push((_, response) => {
      response.setHeader("Location", `${thief.url}/v2/a/blobs/x`);
      answer(response, 302, "");
      return true;
    });
    await failureFrom(client.fetch(`${registry.host}/a:v1`, descriptorOf(bytes)));
    expect(thief.seen.map(({ headers }) => headers["authorization"])).toEqual([undefined, undefined]);
    expect(source.asked).toBe(0);
  });

  test("of a registry are not given to its mirror", async () => {
    await using mirror = await TestRegistry.start({ auth: { kind: "basic", users: USERS } });
    await using registry = await TestRegistry.start({ auth: { kind: "basic", users: USERS } });
    putImage(registry, "a", "v1");
    const host = (one: TestRegistry, own: boolean) => ({
      scheme: "http" as const,
      host: one.host,
      path: "/v2",
      capabilities: new Set(["pull", "resolve"] as const),
      plainFallback: false,
      own,
      tls: {},
      headers: [],
      origins: {},
    });
    const client = quickClient({
      hosts: { hosts: async () => [host(mirror, false), host(registry, true)] },
      credentials: credentialFor("example.org", ALICE),
    });
    expect((await client.resolve("example.org/a:v1")).endpoint).toBe(registry.url);
    expect(mirror.seen.map(({ headers }) => headers["authorization"])).toEqual([undefined]);
  });

  test("among a caller's headers are for the registry itself, not for its mirror", async () => {
    await using mirror = await TestRegistry.start();
    await using registry = await TestRegistry.start();
    putImage(registry, "a", "v1");
    const hosts = [mirror, registry].map((one, i) => {
      return { ...defaultHost(one.host), scheme: "http" as const, plainFallback: false, own: i === 1, tls: {} };
    });
    const headers = { authorization: "Bearer mine", "User-Agent": "theirs", "X-Key": ["1", "2"] };
    await quickClient({ hosts: { hosts: async () => hosts }, headers }).resolve("example.org/a:v1");
    const sent = (one: TestRegistry): unknown[] => {
      return one.seen
        .slice(0, 1)
        .map((request) => ["authorization", "user-agent", "x-key"].map((name) => request.headers[name]));
    };
    expect(sent(mirror)).toEqual([[undefined, "theirs", "1, 2"]]);
    expect(sent(registry)).toEqual([["Bearer mine", "theirs", "1, 2"]]);
  });

  test("come from the first source that knows", async () => {
    const second = always(ALICE);
    const source = firstOf(always(undefined), second, always({ ...ALICE, username: "bob" }));
    const signal = new AbortController().signal;
    expect(await source.find({ host: "h", namespace: "h", own: true, signal })).toEqual(ALICE);
  });
});

describe("parseChallenges()", () => {
  const parse = (...values: readonly string[]) =>
    parseChallenges(new Map([["www-authenticate", values]])).map(({ scheme, parameters }) => [
      scheme,
      Object.fromEntries(parameters),
    ]);

  test("reads one or several challenges, bearer first", () => {
    expect(parse('Bearer realm="https://a/token",service="s, t",scope="repository:a:pull,push"')).toEqual([
      ["bearer", { realm: "https://a/token", service: "s, t", scope: "repository:a:pull,push" }],
    ]);
    expect(parse('Basic realm="x", Bearer realm="https://a",error=insufficient_scope')).toEqual([
      ["bearer", { realm: "https://a", error: "insufficient_scope" }],
      ["basic", { realm: "x" }],
    ]);
    expect(parse("Negotiate", 'BASIC realm="q\\"uote"')).toEqual([
      ["negotiate", {}],
      ["basic", { realm: 'q"uote' }],
    ]);
  });

  test("leaves out what is malformed, and ends", () => {
    expect(parse("")).toEqual([]);
    expect(parse('Bearer realm="open')).toEqual([["bearer", { realm: "" }]]);
    expect(parse(", , =")).toEqual([]);
    expect(parse(`Bearer ${"a=b,".repeat(100_000)}`)[0]).toEqual(["bearer", { a: "b" }]);
  });
});
