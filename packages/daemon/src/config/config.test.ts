import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadConfig, parseToml, withDefaults } from "./load.ts";
import { locateKey } from "./locate.ts";
import { migrate } from "./migrate.ts";
import { printConfig } from "./print.ts";
import { isTable, type TomlTable } from "./types.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "stevedore-config-"));
});
afterAll(async () => {
  await rm(folder, { recursive: true });
});

async function file(name: string, text: string): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, text);
  return path;
}

function section(config: TomlTable, name: string): TomlTable {
  const { plugins } = config;
  const found = isTable(plugins) ? plugins[name] : undefined;
  return isTable(found) ? found : {};
}

const load = async (path: string) => loadConfig(path, { optional: false });

describe("loadConfig()", () => {
  test("A12 refuses typographic quotes with line, column and advice", async () => {
    const path = await file("curly.toml", "[debug]\n  level = \u201cdebug\u201d\n");
    expect(load(path)).rejects.toThrow(/curly\.toml: line 2, column \d+: .*typographic quotes/);
  });
  test("refuses an unknown key with its place and a near word", async () => {
    const path = await file("typo.toml", 'version = 2\n\n[grpc]\n  adress = "/x"\n');
    expect(load(path)).rejects.toThrow('typo.toml:4:3: unknown key "adress", did you mean "address"?');
  });
  test("refuses a value of the wrong type", async () => {
    const path = await file("type.toml", "version = 2\n[grpc]\ngid = 'x'\n");
    expect(load(path)).rejects.toThrow('key "gid" takes a number, found a string');
  });
  test("refuses a version from the future", async () => {
    expect(load(await file("future.toml", "version = 9\n"))).rejects.toThrow("got `9`");
  });
  test("A06 reads a version 1 file", async () => {
    const path = await file(
      "v1.toml",
      'subreaper = true\noom_score = -999\n[debug]\n level = "debug"\n[plugins.linux]\n runtime = "runc"\n shim_debug = true\n' +
        '[plugins.scheduler]\n mutation_threshold = 7\n[plugins.cri]\n sandbox_image = "p:1"\n' +
        '[plugins.cri.registry.mirrors."docker.io"]\n endpoint = ["https://m"]\n[plugins.opt]\n path = "/o"\n',
    );
    const { config, warnings } = await load(path);
    expect(config["oom_score"]).toBe(-999);
    expect(section(config, "io.containerd.gc.v1.scheduler")["mutation_threshold"]).toBe(7);
    expect(section(config, "io.containerd.internal.v1.opt")["path"]).toBe("/o");
    expect(section(config, "io.containerd.cri.v1.images")["pinned_images"]).toEqual({ sandbox: "p:1" });
    expect(warnings.join()).toContain("subreaper");
    expect(warnings.join()).toContain("runtime v1");
  });
  test("A24 A25 A26 moves the listeners of version 2 to their plugins", async () => {
    const path = await file(
      "v2.toml",
      'version = 2\n[grpc]\n address = "/a.sock"\n gid = 5\n tcp_address = "127.0.0.1:1"\n[ttrpc]\n address = ""\n uid = 3\n[debug]\n address = "/d.sock"\n level = "info"\n',
    );
    const { config } = await load(path);
    expect(section(config, "io.containerd.server.v1.grpc")).toMatchObject({ address: "/a.sock", gid: 5 });
    expect(section(config, "io.containerd.server.v1.grpc-tcp")["address"]).toBe("127.0.0.1:1");
    expect(section(config, "io.containerd.server.v1.ttrpc")).toMatchObject({
      address: "/run/containerd/containerd.sock.ttrpc",
      uid: 3,
    });
    expect(section(config, "io.containerd.server.v1.debug")["address"]).toBe("/d.sock");
    expect(config["debug"]).toEqual({ level: "info", format: "", log_trace_id: false });
  });
  test("imports merge: tables by key, lists of plugins by appending", async () => {
    await file("part-b.toml", 'version = 2\ndisabled_plugins = ["b"]\n[debug]\nformat = "json"\n');
    const path = await file(
      "imports.toml",
      'version = 2\nimports = ["part-*.toml"]\ndisabled_plugins = ["a"]\n[debug]\nlevel = "debug"\n',
    );
    const { config } = await load(path);
    expect(config["disabled_plugins"]).toEqual(["a", "b"]);
    expect(config["debug"]).toMatchObject({ level: "debug", format: "json" });
  });
  test("a file that was named must be there; the default one need not", async () => {
    expect(load(join(folder, "none.toml"))).rejects.toThrow("not found");
    const { config } = await loadConfig(join(folder, "none.toml"), { optional: true });
    expect(config["root"]).toBe("/var/lib/containerd");
  });
});

test("A05 the printed default parses to itself", () => {
  const printed = printConfig(withDefaults({}), () => true);
  const parsed = parseToml(printed, "default");
  expect(parsed).toEqual(withDefaults({}));
});

test("migrate() is done once: a migrated file migrates to itself", () => {
  const once = migrate({ version: 2, grpc: { address: "/a" }, plugins: {} }).config;
  expect(migrate(once).config).toEqual(once);
});

test("locateKey() finds keys under headers, dotted and quoted", () => {
  const text = "a = 1\n[x.'y.z']\n  k = 2\n# k = 3\n[x]\nq.r = 4\n";
  expect(locateKey(text, "f", ["x", "y.z", "k"])).toMatchObject({ line: 3, column: 3 });
  expect(locateKey(text, "f", ["x", "q", "r"])).toMatchObject({ line: 6 });
  expect(locateKey(text, "f", ["x", "y.z", "none"])).toMatchObject({ line: 2 });
});
