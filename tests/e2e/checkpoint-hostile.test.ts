// Checkpoints made by strangers: archives that reach out of their folder, and indexes that ask for more than a container.
import { expect } from "bun:test";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { backgroundContext, encodeText } from "@stevedore/base";
import { encodeJson, isJsonObject, type JsonObject, parseJson } from "@stevedore/oci/json-lossless";
import { parseIndex } from "@stevedore/oci/manifest";
import { MediaType } from "@stevedore/oci/media-types";
import { type Client, connectClient } from "@stevedore/sdk";
import { encodeAny, readAny, writeBlob, writeCheckpointIndex } from "@stevedore/sdk/local/checkpoints/blobs";
import type { AnyValue, Descriptor } from "@stevedore/sdk/types";
import { type FakeRunc, makeFakeRunc } from "../harness/fake-runc.ts";
import { exec } from "../harness/process.ts";
import { type CastName, row, type Stage } from "../harness/row.ts";
import { type TarEntry, tar } from "../harness/tar.ts";

const OUR_DAEMON: readonly CastName[] = ["ours", "our-daemon"];
const OURS: readonly CastName[] = ["ours"];

const VOUCHED = { "containerd.io/checkpoint": "true" } as const;

/** A true checkpoint, and the means to make others of it. */
interface Forge {
  readonly client: Client;
  readonly runc: FakeRunc;
  readonly spec: JsonObject;
  /** Makes the image `name` of a checkpoint like the true one, but for what is given. */
  readonly forge: (
    name: string,
    change: {
      readonly archive?: readonly TarEntry[];
      readonly spec?: JsonObject;
      readonly runtime?: string;
      /** null: none. */
      readonly options?: AnyValue | null;
      readonly annotations?: Readonly<Record<string, string>>;
      readonly labels?: Readonly<Record<string, string>>;
      readonly image?: Descriptor;
    },
  ) => Promise<void>;
}

async function withForge(t: Stage, body: (forge: Forge) => Promise<void>): Promise<void> {
  const runc = await makeFakeRunc(t.path(t.id("runc")));
  const id = t.id("true");
  await t.must("run", "-d", "--null-io", "--runc-binary", runc.path, await t.image(), id, "sleep", "1000");
  await t.must("containers", "checkpoint", "--rw", "--image", "--task", id, "true:1");
  await t.must("tasks", "rm", "--force", id);
  await t.must("containers", "rm", id);
  await using client = connectClient({ address: t.daemon.address });
  const context = backgroundContext({ namespace: t.namespace });
  const { target } = await client.images.get(context, "true:1");
  await using reader = await client.content.open(context, target.digest);
  const index = parseIndex(await reader.readAt(0, reader.size), target.mediaType);
  const part = (mediaType: string): Descriptor => {
    const found = index.manifests.find((one) => one.mediaType === mediaType);
    if (found === undefined) throw new Error(`the checkpoint has no ${mediaType}`);
    return { mediaType, digest: found.digest, size: found.size };
  };
  const config = await readAny(client, context, part(MediaType.checkpointConfig));
  const spec = parseJson(Buffer.from(config.value).toString());
  if (!isJsonObject(spec)) throw new Error("the spec is no object");
  const options = await readAny(client, context, part(MediaType.checkpointRuntimeOptions));
  await body({
    client,
    runc,
    spec,
    forge: async (name, change) => {
      const put = async (mediaType: string, bytes: Uint8Array): Promise<Descriptor> =>
        writeBlob(client.content, context, { mediaType, bytes });
      const parts: Descriptor[] = [change.image ?? part(MediaType.ociManifest), part(MediaType.ociLayerGzip)];
      const wanted = change.options === undefined ? options : change.options;
      if (wanted !== null) parts.push(await put(MediaType.checkpointRuntimeOptions, await encodeAny(wanted)));
      const value = encodeText(encodeJson(change.spec ?? spec));
      parts.push(await put(MediaType.checkpointConfig, await encodeAny({ typeUrl: config.typeUrl, value })));
      const memory =
        change.archive === undefined
          ? part(MediaType.checkpoint)
          : await put(MediaType.checkpoint, tar(change.archive));
      parts.push({ ...memory, annotations: change.annotations ?? {} });
      const made = await writeCheckpointIndex(client.content, context, {
        parts,
        annotations: {
          ...index.annotations,
          "io.containerd.checkpoint.runtime": change.runtime ?? "io.containerd.runc.v2",
        },
      });
      await client.images.create(context, { name, target: made, labels: change.labels ?? {} });
    },
  });
}

/** What a restore may leave: no task, no folder. */
async function expectNothing(t: Stage, id: string): Promise<void> {
  expect(await t.must("tasks", "ls", "-q")).not.toContain(id);
  expect(
    (await exec(["find", join(t.daemon.root, "io.containerd.service.v1.tasks-service"), "-type", "f"])).stdout,
  ).toBe("");
  await t.ctr("containers", "rm", id);
}

const WHOLE: readonly TarEntry[] = [
  { path: "pages-1.img", data: "memory\n" },
  { path: "inventory.img", data: "all\n" },
];

row(
  "CVE-2026-53489",
  "an archive with links, pipes, devices or paths outside is refused, and nothing outside is touched",
  { casts: OUR_DAEMON },
  async (t) => {
    await withForge(t, async ({ forge, runc }) => {
      const outside = t.path(t.id("outside"));
      const victim = t.path(t.id("victim"));
      await Bun.write(victim, "as it was");
      const hostile: Readonly<Record<string, readonly TarEntry[]>> = {
        link: [{ path: "pages-1.img", type: "symlink", target: "/etc/passwd" }],
        linked: [{ path: "restore.log", type: "symlink", target: victim }],
        folder: [
          { path: "d", type: "symlink", target: t.daemon.dir },
          { path: `d/${t.id("outside")}`, data: "out" },
        ],
        hard: [{ path: "pages-1.img", type: "hardlink", target: victim }],
        pipe: [{ path: "core-1.img", type: "fifo" }],
        disk: [{ path: "core-1.img", type: "block", device: [8, 0] }],
        memory: [{ path: "core-1.img", type: "char", device: [1, 1] }],
      };
      for (const [name, entries] of Object.entries(hostile)) {
        await forge(`evil-${name}:1`, { archive: [...WHOLE, ...entries], labels: VOUCHED });
        const id = t.id(name);
        const ran = await t.ctr("containers", "restore", "--live", id, `evil-${name}:1`);
        expect({ name, code: ran.code }).toEqual({ name, code: 1 });
        expect(ran.stderr).toMatch(/is no plain file|failed to unpack checkpoint/);
        await expectNothing(t, id);
      }
      // Paths that climb end at the folder's root, as in a layer; what they name is not what criu looks for.
      const climbing = [
        ...WHOLE,
        { path: `../../../../../../../..${outside}`, data: "out" },
        { path: `/${outside}`, data: "out" },
      ];
      await forge("evil-path:1", { archive: climbing, labels: VOUCHED });
      await t.ctr("containers", "restore", "--live", t.id("path"), "evil-path:1");
      await t.ctr("tasks", "rm", "--force", t.id("path"));
      await expectNothing(t, t.id("path"));
      expect(existsSync(outside)).toBe(false);
      expect(await readFile(victim, "utf8")).toBe("as it was");
      // One that is whole is restored.
      await forge("good:1", { archive: WHOLE, labels: VOUCHED });
      await t.must("containers", "restore", "--live", t.id("good"), "good:1");
      expect((await runc.restored()).at(-1)).toBe(t.id("good"));
      await t.must("tasks", "rm", "--force", t.id("good"));
    });
  },
);

row(
  "CVE-2026-53492",
  "annotations of a checkpoint's parts choose no folder and no device",
  { casts: OUR_DAEMON },
  async (t) => {
    await withForge(t, async ({ forge, runc, spec }) => {
      const chosen = t.path(t.id("chosen"));
      await exec(["mkdir", chosen]);
      await forge("evil:1", { annotations: { RestoreFromPath: chosen }, labels: VOUCHED });
      // Debian's client sends the annotations of the part, ours none.
      await t.must("containers", "restore", "--live", t.id("a"), "evil:1");
      const restored = await runc.restored();
      expect(restored[restored.indexOf("--image-path") + 1]).not.toBe(chosen);
      await t.must("tasks", "rm", "--force", t.id("a"));
      if (t.cast.client === "debian") return;
      const annotations = {
        "cdi.k8s.io/gpu": "vendor.com/device=all",
        "io.containerd.runc.v2.group": "another",
        "io.kubernetes.cri-o.note": "kept",
        note: "kept",
      };
      await forge("steering:1", { spec: { ...spec, annotations }, options: null });
      await t.must("containers", "restore", t.id("b"), "steering:1");
      const info = parseJson(await t.must("containers", "info", t.id("b")));
      const shown = isJsonObject(info) && isJsonObject(info["Spec"]) ? info["Spec"]["annotations"] : undefined;
      expect(shown).toEqual({ "io.kubernetes.cri-o.note": "kept", note: "kept" });
      await t.must("tasks", "rm", "--force", t.id("b"));
    });
  },
);

row(
  "CVE-2026-53488",
  "a checkpoint from elsewhere gets a container, and nothing that runs or reaches the host",
  { casts: OURS },
  async (t) => {
    await withForge(t, async ({ forge, spec }) => {
      const witness = t.path(t.id("witness"));
      const script = t.path(t.id("program"));
      await Bun.write(script, `#!/bin/sh\necho ran >${witness}\n`);
      await exec(["chmod", "755", script]);
      const linux = isJsonObject(spec["linux"]) ? spec["linux"] : {};
      const mounts = Array.isArray(spec["mounts"]) ? spec["mounts"] : [];
      const cases: Readonly<
        Record<
          string,
          {
            readonly says: string;
            readonly runtime?: string;
            readonly options?: AnyValue | null;
            readonly spec?: JsonObject;
          }
        >
      > = {
        runtime: { says: "names the runtime", runtime: script, options: null },
        binary: { says: "sets its runtime's binaryName" },
        config: {
          says: "has options of its own",
          options: { typeUrl: "runtimeoptions.v1.Options", value: new Uint8Array([18, 1, 47]) },
        },
        hook: { says: "has hooks", options: null, spec: { ...spec, hooks: { createRuntime: [{ path: script }] } } },
        mount: {
          says: 'mounts "/" of this machine',
          options: null,
          spec: {
            ...spec,
            mounts: [...mounts, { destination: "/host", source: "/", type: "none", options: ["rbind"] }],
          },
        },
        device: {
          says: "wants devices",
          options: null,
          spec: { ...spec, linux: { ...linux, devices: [{ path: "/dev/vda", type: "b", major: 254, minor: 0 }] } },
        },
        namespace: {
          says: 'joins the "pid" namespace "/proc/1/ns/pid"',
          options: null,
          spec: { ...spec, linux: { ...linux, namespaces: [{ type: "pid", path: "/proc/1/ns/pid" }] } },
        },
        root: { says: 'has its root file system at "/"', options: null, spec: { ...spec, root: { path: "/" } } },
      };
      for (const [name, { says, ...change }] of Object.entries(cases)) {
        await forge(`from-elsewhere-${name}:1`, change);
        const ran = await t.ctr("containers", "restore", t.id(name), `from-elsewhere-${name}:1`);
        expect({ name, code: ran.code }).toEqual({ name, code: 1 });
        expect(ran.stderr).toContain(says);
        expect(ran.stderr).toContain(`ctr images label from-elsewhere-${name}:1 containerd.io/checkpoint=true`);
        await expectNothing(t, t.id(name));
        expect(await t.must("snapshots", "ls")).not.toContain(t.id(name));
      }
      expect(existsSync(witness)).toBe(false);
      // A plain one is restored, without labels of its own; an operator's word is enough for the others.
      await forge("plain:1", { options: null });
      await t.must("containers", "restore", t.id("plain"), "plain:1");
      expect(await t.must("containers", "info", t.id("plain"))).not.toContain("containerd.io/restart");
      await t.must("tasks", "rm", "--force", t.id("plain"));
      await t.must("images", "label", "from-elsewhere-binary:1", "containerd.io/checkpoint=true");
      await t.must("containers", "restore", "--live", t.id("vouched"), "from-elsewhere-binary:1");
      await t.must("tasks", "rm", "--force", t.id("vouched"));
    });
  },
);

row(
  "CVE-2026-50195",
  "a checkpoint of another image than the one of that name here is not put on top of it",
  { casts: OURS },
  async (t) => {
    await withForge(t, async ({ forge }) => {
      const image = { mediaType: MediaType.ociManifest, digest: `sha256:${"0".repeat(64)}`, size: 2 };
      const before = await t.must("images", "ls");
      await forge("moved:1", { image, options: null, labels: VOUCHED });
      const ran = await t.ctr("containers", "restore", t.id("m"), "moved:1");
      expect(ran.code).toBe(1);
      expect(ran.stderr).toContain("the checkpoint was made with sha256:0000");
      await expectNothing(t, t.id("m"));
      // No name moved.
      for (const line of before.trimEnd().split("\n").slice(1))
        expect(await t.must("images", "ls")).toContain(line.split(/\s+/)[0] ?? "");
    });
  },
);
