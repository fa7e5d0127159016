import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { failureFrom } from "../testing/fixture.ts";
import { criRegistry } from "./cri-config.ts";
import { defaultHost } from "./defaults.ts";
import { checkHostsDir, hostsDir } from "./hosts-dir.ts";
import { parseHostsToml } from "./hosts-toml.ts";
import { endpointOf, type RegistryHost } from "./types.ts";

const PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
const KEY = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "registry-hosts-"));
});
afterAll(() => rm(folder, { recursive: true }));

/** A folder of hosts folders with these files. */
async function root(name: string, files: Readonly<Record<string, string>>): Promise<string> {
  const at = join(folder, name);
  await mkdir(at, { recursive: true });
  for (const [path, text] of Object.entries(files)) {
    await mkdir(join(at, path, ".."), { recursive: true });
    await writeFile(join(at, path), text);
  }
  return at;
}

const shown = (hosts: readonly RegistryHost[]): readonly string[] =>
  hosts.map((host) => `${endpointOf(host)}${host.path}`);

describe("defaultHost()", () => {
  const at = (namespace: string, options?: Parameters<typeof defaultHost>[1]) => {
    const { scheme, host, plainFallback, tls } = defaultHost(namespace, options);
    return [`${scheme}://${host}`, plainFallback, tls.skipVerify === true];
  };

  test("follows the peer's rules", () => {
    expect(at("docker.io")).toEqual(["https://registry-1.docker.io", false, false]);
    expect(at("quay.io")).toEqual(["https://quay.io", false, false]);
    expect(at("localhost:5000")).toEqual(["https://localhost:5000", true, true]);
    expect(at("127.0.0.5:5000")).toEqual(["https://127.0.0.5:5000", true, true]);
    expect(at("[::1]:5000")).toEqual(["https://[::1]:5000", true, true]);
    expect(at("localhost")).toEqual(["https://localhost", false, true]);
    expect(at("localhost:443")).toEqual(["https://localhost:443", false, true]);
    expect(at("localhost:80")).toEqual(["http://localhost:80", false, false]);
    expect(at("harbor.example", { scheme: "http" })).toEqual(["http://harbor.example", false, false]);
    expect(at("localhost:5000", { scheme: "http" })).toEqual(["http://localhost:5000", false, false]);
    expect(at("docker.io", { scheme: "http" })).toEqual(["https://registry-1.docker.io", false, false]);
  });
});

describe("parseHostsToml()", () => {
  const parse = async (text: string) => parseHostsToml(text, "h.toml");

  test("reads every key, hosts in the order of the file", async () => {
    const file = await parse(`
server = "https://registry.example/root"
capabilities = ["pull"]

[host."https://z.example"]
  capabilities = ["pull", "RESOLVE", "referrers"]
  ca = "ca.pem"
  client = [["a.crt", "a.key"], "both.pem", ["own.pem", ""]]
  skip_verify = true
  dial_timeout = "1m30s"
  proxy = "http://user:word@proxy.example:3128"
  [host."https://z.example".header]
    x-one = "1"
    x-two = ["2", "3"]

[host."http://a.example:5000/v2/proxy"]
  override_path = true
  ca = ["one.pem", "/two.pem"]
  client = "pair.pem"

[host."bare.example"]
`);
    expect(file.mirrors.map(({ address }) => address)).toEqual([
      { scheme: "https", host: "z.example", path: "/v2" },
      { scheme: "http", host: "a.example:5000", path: "/v2/proxy" },
      { scheme: "https", host: "bare.example", path: "/v2" },
    ]);
    const [z, a] = file.mirrors;
    expect([...(z?.capabilities ?? [])]).toEqual(["pull", "resolve", "referrers"]);
    expect(z).toMatchObject({
      ca: ["ca.pem"],
      client: [["a.crt", "a.key"], ["both.pem"], ["own.pem"]],
      skipVerify: true,
      dialMs: 90_000,
    });
    expect(z?.headers).toEqual([
      ["x-one", "1"],
      ["x-two", "2"],
      ["x-two", "3"],
    ]);
    expect(z?.lines).toMatchObject({ host: 5, ca: 7, dial_timeout: 10, header: 12 });
    expect(z?.proxy?.href).toBe("http://user:word@proxy.example:3128/");
    expect(a).toMatchObject({ ca: ["one.pem", "/two.pem"], client: [["pair.pem"]] });
    expect(file.server).toMatchObject({ address: { host: "registry.example", path: "/root/v2" } });
    expect([...file.server.capabilities]).toEqual(["pull"]);
  });

  test("refuses with file, line and key", async () => {
    const problems: readonly (readonly [string, string])[] = [
      ["\nserver = 5\n", "read h.toml: line 2: key server: want a string"],
      ['server = "ftp://x"', "line 1: key server: want a URL of http or https"],
      ['server = "https://u:hunter22@x"', "line 1: key server: a URL here holds no user"],
      ['[host."https://a"]\n\n  capabilites = ["pull"]', 'line 3: key host."https://a".capabilites: unknown key'],
      [
        '[host."https://a"]\n  capabilities = ["pul"]',
        'line 2: key host."https://a".capabilities: unknown capability "pul"',
      ],
      ['[host."https://a"]\n  skip_verify = "yes"', 'line 2: key host."https://a".skip_verify: want true or false'],
      ['[host."https://a"]\n  dial_timeout = "fast"', 'want a duration such as "5s"'],
      ['[host."https://a"]\n  client = [["a", "b", "c"]]', "want pairs"],
      ['[host."https://a".header]\n  "x y" = "1"', "not a header's name"],
      ['[host."https://a".header]\n  x = "a\\nb"', "characters that cannot be sent"],
      ['proxy = "ftp://x"', "line 1: key proxy: want a URL of http, https, socks5"],
      ['proxy = "http://u:hunter22@x/path"', "without path"],
      ["server = ", "read h.toml: line 1"],
      ["host = 3", "key host: want a table"],
      ["[hosts.x]", "key hosts: unknown key"],
    ];
    for (const [text, message] of problems) {
      const error = await failureFrom(parse(text));
      expect(error.message).toContain(message);
      expect(error.message).toStartWith("read h.toml: ");
      expect(error.message).not.toContain("hunter22");
    }
  });
});

describe("hostsDir()", () => {
  test("finds the folder in every spelling, then _default", async () => {
    const at = await root("spellings", {
      "one.example_5000_/hosts.toml": 'server = "https://port-folder"',
      "two.example:5000/hosts.toml": 'server = "https://colon-folder"',
      "_default/hosts.toml": '[host."https://mirror.example"]',
    });
    const source = hostsDir({ roots: [join(folder, "none"), at] });
    expect(shown(await source.hosts("one.example:5000"))).toEqual(["https://port-folder/v2"]);
    expect(shown(await source.hosts("two.example:5000"))).toEqual(["https://colon-folder/v2"]);
    expect(shown(await source.hosts("docker.io"))).toEqual([
      "https://mirror.example/v2",
      "https://registry-1.docker.io/v2",
    ]);
    expect(shown(await source.hosts("three.example"))).toEqual([
      "https://mirror.example/v2",
      "https://three.example/v2",
    ]);
  });

  test("reads files named by a file, relative to it, and tells where settings come from", async () => {
    const at = await root("files", {
      "a.example/hosts.toml": 'server = "https://a.example"\nca = "ca/root.pem"\nclient = [["c.pem", "k.pem"]]\n',
      "a.example/ca/root.pem": PEM,
      "a.example/c.pem": PEM,
      "a.example/k.pem": KEY,
    });
    const [host] = await hostsDir({ roots: [at] }).hosts("a.example");
    expect(host?.tls).toEqual({ ca: [PEM], client: [{ cert: PEM, key: KEY }] });
    expect(host?.origins).toMatchObject({ server: `${at}/a.example/hosts.toml:1`, ca: `${at}/a.example/hosts.toml:2` });
    await rm(join(at, "a.example/ca/root.pem"));
    const gone = await failureFrom(hostsDir({ roots: [at] }).hosts("a.example"));
    expect(gone.message).toBe(`read ${at}/a.example/ca/root.pem, named by ${at}/a.example/hosts.toml:2: not found`);
    await writeFile(join(at, "a.example/ca/root.pem"), "no pem");
    expect((await failureFrom(hostsDir({ roots: [at] }).hosts("a.example"))).message).toContain("no PEM block in it");
  });

  test("takes Docker's certificate folders", async () => {
    const at = await root("docker", {
      "d.example/ca.crt": PEM,
      "d.example/client.cert": PEM,
      "d.example/client.key": KEY,
      "d.example/other.cert": PEM,
      "d.example/notes.txt": "x",
    });
    const [host] = await hostsDir({ roots: [at] }).hosts("d.example");
    expect(host?.tls).toEqual({
      ca: [PEM],
      client: [
        { cert: PEM, key: KEY },
        { cert: PEM, key: PEM },
      ],
    });
    expect(shown(host === undefined ? [] : [host])).toEqual(["https://d.example/v2"]);
  });

  test("tries HTTPS first for an http server with TLS settings, as the peer does", async () => {
    const at = await root("mixed", {
      "m.example/hosts.toml": 'server = "http://m.example:5000"\nskip_verify = true\n',
      "n.example/hosts.toml": 'server = "http://n.example:80"\nskip_verify = true\n',
    });
    const source = hostsDir({ roots: [at] });
    expect(await source.hosts("m.example")).toMatchObject([{ scheme: "https", plainFallback: true }]);
    expect(await source.hosts("n.example")).toMatchObject([{ scheme: "http", plainFallback: false }]);
  });

  test("sees changes with the next question, and reads nothing twice without one", async () => {
    const at = await root("reload", { "r.example/hosts.toml": 'server = "https://one"' });
    const source = hostsDir({ roots: [at] });
    const before = await source.hosts("r.example");
    expect(shown(before)).toEqual(["https://one/v2"]);
    expect(await source.hosts("r.example")).toBe(before);
    await writeFile(join(at, "r.example/hosts.toml"), 'server = "https://two"\n');
    expect(shown(await source.hosts("r.example"))).toEqual(["https://two/v2"]);
    await rm(join(at, "r.example/hosts.toml"));
    expect(shown(await source.hosts("r.example"))).toEqual(["https://r.example/v2"]);
    await writeFile(join(at, "r.example/new.crt"), PEM);
    expect((await source.hosts("r.example"))[0]?.tls.ca).toEqual([PEM]);
  });

  test("never leaves its roots, and reads only regular files of a bounded size", async () => {
    const at = await root("bounds/inside", { "big.example/hosts.toml": "#".repeat(5 << 20), "dev.example/keep": "" });
    await writeFile(join(folder, "bounds/hosts.toml"), 'server = "https://stolen"');
    const source = hostsDir({ roots: [at] });
    for (const name of ["..", ".", "../x", "a/../..", ""]) {
      expect((await source.hosts(name).catch(() => []))[0]?.host).not.toBe("stolen");
    }
    expect((await failureFrom(source.hosts("big.example"))).message).toContain("more than 4194304 bytes");
    await symlink("/dev/zero", join(at, "dev.example/hosts.toml"));
    expect((await failureFrom(source.hosts("dev.example"))).message).toContain("not a regular file");
  });
});

test("checkHostsDir() tells what is wrong in any folder", async () => {
  const at = await root("check", {
    "good.example/hosts.toml": 'server = "https://good.example"',
    "bad.example_5000_/hosts.toml": "sever = 1",
    "worse.example/hosts.toml": 'ca = "none.pem"',
    "a-file": "x",
  });
  expect(await checkHostsDir(at)).toEqual([
    expect.stringContaining(`read ${at}/bad.example_5000_/hosts.toml: line 1: key sever: unknown key`),
    `read ${at}/worse.example/none.pem, named by ${at}/worse.example/hosts.toml:1: not found`,
  ]);
  expect(await checkHostsDir(join(at, "nowhere"))).toEqual([]);
});

describe("criRegistry()", () => {
  const WHERE = 'plugins."io.containerd.grpc.v1.cri".registry';

  test("turns mirrors and configs into hosts, with the registry itself last", async () => {
    const at = await root("cri", { "ca.pem": PEM });
    const { hosts, credentials } = criRegistry(
      {
        mirrors: {
          "docker.io": {
            endpoint: ["https://mirror.example", "localhost:5000/v2/proxy", "https://registry-1.docker.io"],
          },
          "docker.vms.weijc": { endpoint: ["http://docker.vms.weijc"] },
          "*": { endpoint: ["https://all.example"] },
        },
        configs: {
          "mirror.example": { tls: { ca_file: join(at, "ca.pem"), insecure_skip_verify: false } },
          "docker.vms.weijc": { auth: { username: "admin", password: "Harbor12345" } },
        },
        auths: { "https://gcr.io": { auth: Buffer.from("a:b").toString("base64") } },
        headers: { "X-All": ["1"] },
      },
      WHERE,
    );
    expect(shown(await hosts.hosts("docker.io"))).toEqual([
      "https://mirror.example/v2",
      "http://localhost:5000/v2/proxy",
      "https://registry-1.docker.io/v2",
    ]);
    expect((await hosts.hosts("docker.io"))[0]).toMatchObject({
      own: false,
      tls: { ca: [PEM], skipVerify: false },
      headers: [["X-All", "1"]],
      origins: { ca: `${WHERE}.configs."mirror.example".tls.ca_file` },
    });
    expect(shown(await hosts.hosts("docker.vms.weijc"))).toEqual(["http://docker.vms.weijc/v2"]);
    expect(shown(await hosts.hosts("quay.io"))).toEqual(["https://all.example/v2", "https://quay.io/v2"]);
    const signal = new AbortController().signal;
    const find = async (host: string) => credentials.find({ host, namespace: host, own: true, signal });
    expect(await find("docker.vms.weijc")).toMatchObject({ username: "admin", password: "Harbor12345" });
    expect(await find("gcr.io")).toMatchObject({ username: "a", password: "b" });
    expect(await find("quay.io")).toBeUndefined();
  });

  test("takes config_path, and refuses it together with mirrors", async () => {
    const at = await root("cri-path", { "docker.io/hosts.toml": '[host."https://m.example"]' });
    expect(shown(await criRegistry({ config_path: `/none:${at}` }, WHERE).hosts.hosts("docker.io"))).toEqual([
      "https://m.example/v2",
      "https://registry-1.docker.io/v2",
    ]);
    expect(() => criRegistry({ config_path: at, mirrors: { a: {} } }, WHERE)).toThrow(
      "cannot be set when `config_path` is provided",
    );
  });

  test("refuses wrong shapes with the key and no value", () => {
    const wrong = (): unknown => criRegistry({ configs: { a: { auth: { password: ["hunter22"] } } } }, WHERE);
    expect(wrong).toThrow(`${WHERE}: configs.a.auth.password: found another kind of value, want a string`);
  });
});
