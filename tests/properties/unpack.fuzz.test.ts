// Random stacks of layers: what the daemon makes of them side by side is what it makes of them one after the other, file by file. The
// layers mix what goes wrong in practice: whiteouts and opaque folders over what is there and what is not, links into lower layers, folders
// that no entry names, files in the place of folders and the other way round. A stack that fails is shrunk and printed.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { backgroundContext } from "@stevedore/base";
import { defaultMatcher } from "@stevedore/oci/platform";
import type { Client } from "@stevedore/sdk/client";
import { connectClient } from "@stevedore/sdk/connect";
import { verifyLayers } from "@stevedore/sdk/local/verify-layers";
import * as fc from "fast-check";
import { Daemon } from "../harness/daemon.ts";
import { ociArchive } from "../harness/images.ts";
import { type TarEntry, tar } from "../harness/tar.ts";

const SEED = Number(process.env["SEED"] || "1");
/** Less shows nothing. */
const LEAST_MS = 20_000;
const TIME_MS = Math.max(Number(process.env["MINUTES"] || "0") * 60_000, LEAST_MS);
/** The clock is looked at after so many. */
const STACKS_A_SEED = 3;
/** Few names, so that layers meet. */
const NAMES = ["a", "b", "c", "d"] as const;
/** Layers that can be mounted one upon the other. */
const MOST_LAYERS = 127;

const path = fc.array(fc.constantFrom(...NAMES), { minLength: 1, maxLength: 3 }).map((parts) => parts.join("/"));
const owner = fc.record({ uid: fc.nat(3), gid: fc.nat(3), mtime: fc.nat(1_000_000_000) });
const xattrs = fc.constantFrom({}, { "SCHILY.xattr.user.k": "v" }, { "SCHILY.xattr.trusted.k": "w" });

const entry: fc.Arbitrary<TarEntry> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc
      .tuple(path, fc.string({ maxLength: 20 }), fc.constantFrom(0o644, 0o600, 0o4755), owner, xattrs)
      .map(([at, data, mode, who, pax]): TarEntry => ({ path: at, data, mode, ...who, pax })),
  },
  {
    weight: 4,
    arbitrary: fc
      .tuple(path, fc.constantFrom(0o755, 0o700, 0o1777), owner, xattrs)
      .map(([at, mode, who, pax]): TarEntry => ({ path: `${at}/`, type: "dir", mode, ...who, pax })),
  },
  {
    weight: 2,
    arbitrary: fc
      .tuple(path, fc.constantFrom("a", "../b", "/c", "d/a", "nowhere"), owner)
      .map(([at, target, who]): TarEntry => ({ path: at, type: "symlink", target, ...who })),
  },
  {
    weight: 1,
    arbitrary: fc.tuple(path, fc.constantFrom("char", "fifo", "block"), owner).map(
      ([at, type, who]): TarEntry => ({
        path: at,
        type,
        ...who,
        ...(type === "fifo" ? {} : { device: [1, 3] as const }),
      }),
    ),
  },
  { weight: 3, arbitrary: path.map((at): TarEntry => ({ path: whiteout(at), data: "" })) },
  { weight: 2, arbitrary: path.map((at): TarEntry => ({ path: `${at}/.wh..wh..opq`, data: "" })) },
);

function whiteout(at: string): string {
  const slash = at.lastIndexOf("/") + 1;
  return `${at.slice(0, slash)}.wh.${at.slice(slash)}`;
}

/** A layer, with a hard link to a file that it has itself: a link to what is not there is no archive to unpack. */
const layer = fc.tuple(fc.array(entry, { maxLength: 8 }), fc.option(path)).map(([entries, link]) => {
  const file = entries.find(({ type, path: at }) => type === undefined && !at.includes(".wh."));
  const taken = entries.some(({ path: at }) => link === null || at.startsWith(`${link}/`) || at === link);
  if (link === null || file === undefined || taken || link.startsWith(`${file.path}/`)) return entries;
  return [...entries, { path: link, type: "hardlink" as const, target: file.path }];
});

/** Small stacks mostly, now and then the highest that can be mounted. */
const stack = fc.oneof(
  { weight: 30, arbitrary: fc.array(layer, { minLength: 1, maxLength: 6 }) },
  { weight: 1, arbitrary: fc.array(layer, { minLength: MOST_LAYERS, maxLength: MOST_LAYERS }) },
);

let daemon: Daemon;
let client: Client;
let turn = 0;

beforeAll(async () => {
  daemon = await Daemon.start({ maker: "ours" });
  client = connectClient({ address: daemon.address });
  await mkdir(join(daemon.dir, "stacks"));
});

afterAll(async () => {
  await client[Symbol.asyncDispose]();
  await daemon.close();
});

/** Imports a stack of layers and compares. @returns what differs; nothing for a stack that both refuse */
async function differences(layers: readonly (readonly TarEntry[])[]): Promise<readonly string[]> {
  turn += 1;
  const namespace = `stvunpack${process.pid}-${turn}`;
  daemon.use(namespace);
  const archive = join(daemon.dir, "stacks", `${turn}.tar`);
  const name = "docker.io/library/stack:test";
  await writeFile(
    archive,
    await ociArchive({ name, bare: true, compress: "none", layers: layers.map((each) => tar(each)) }),
  );
  try {
    const imported = await daemon.ctr("ours", namespace, ["images", "import", archive]);
    if (imported.code !== 0) {
      // A stack that cannot be unpacked side by side must not be one that can be unpacked at all.
      const serial = await daemon.ctr("ours", namespace, ["images", "import", "--no-unpack", archive]);
      expect(serial.code).toBe(0);
    }
    const context = backgroundContext({ namespace });
    const { target } = await client.images.get(context, name);
    const state = await verifyLayers(client, context, { target, matcher: defaultMatcher(), snapshotter: "" });
    if (state.kind === "absent") return [];
    if (state.kind === "unknown") return [`layer ${state.layer + 1} unpacks side by side only: ${state.reason}`];
    return state.kind === "ok" ? [] : state.differences.map(({ path: at, what }) => `${at} ${what}`);
  } finally {
    await rm(archive);
    await daemon.clear(namespace);
  }
}

test(
  `random layers unpack side by side as they do one after the other, SEED=${SEED}`,
  async () => {
    const end = performance.now() + TIME_MS;
    let runs = 0;
    const unpacksEqually = fc.asyncProperty(stack, async (layers) => {
      runs += 1;
      expect(await differences(layers)).toEqual([]);
    });
    for (let seed = SEED; performance.now() < end; seed += 1) {
      const found = await fc.check(unpacksEqually, { seed, numRuns: STACKS_A_SEED });
      if (!found.failed) continue;
      const [layers] = found.counterexample ?? [];
      const why = String(found.errorInstance);
      throw new Error(`a stack unpacks differently (SEED=${seed}): ${JSON.stringify(layers)}\n${why}`);
    }
    process.stderr.write(`unpack: ${runs} stacks, SEED=${SEED}\n`);
  },
  TIME_MS + 120_000,
);
