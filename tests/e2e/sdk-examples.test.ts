// Runs every example as a program of its own, and the packed root export on Node, against each daemon that is there.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Daemon, type Maker, program, repository } from "../harness/daemon.ts";
import { IMAGE, ociArchive } from "../harness/images.ts";
import { NODE_VERSION, pinnedNode } from "../harness/node.ts";
import { exec, type Result } from "../harness/process.ts";

const NAMESPACE = "examples";
const LIMIT_MS = 40_000;
/** The first fetch of Node takes some seconds, on a slow line minutes. */
const FETCH_LIMIT_MS = 300_000;

/** What a strict TypeScript user of the package writes; its types come from the packed declarations alone. */
const TYPED_PROGRAM = `
import { backgroundContext, type Client, type ConnectOptions, connectClient, isErrorClass, withLease } from "@stevedore/sdk";
const options: ConnectOptions = { address: "/run/containerd/containerd.sock" };
const client: Client = connectClient(options);
const context = backgroundContext({ namespace: "default", signal: AbortSignal.timeout(1000) });
const names: string[] = (await client.images.list(context, [])).map((image) => image.name);
const { version }: { readonly version: string } = await client.version(context);
for await (const event of client.events.subscribe(context, [])) { const topic: string = event.topic; console.log(topic); break; }
const digest: string = await withLease(client.leases, context, async (leased) => {
  const writer = await client.content.writer(leased, { ref: "x" });
  return writer.commit(leased, {});
});
// @ts-expect-error -- an address is text
connectClient({ address: 5 });
// @ts-expect-error -- there is no such resource
client.nothing;
try { await client.containers.get(context, "none"); } catch (error) { if (isErrorClass(error, "not-found")) console.log(names, version, digest); }
await client[Symbol.asyncDispose]();
`;

const NODE_PROGRAM = `
import { backgroundContext, connectClient, isErrorClass, withLease } from "@stevedore/sdk";
const client = connectClient({ address: process.env.CONTAINERD_ADDRESS });
const context = backgroundContext({ namespace: "${NAMESPACE}" });
const { version } = await client.version(context);
console.log("version", version !== "");
await withLease(client.leases, context, async (leased) => {
  const writer = await client.content.writer(leased, { ref: "node" });
  const text = "x".repeat(3_000_000);
  await writer.write(new TextEncoder().encode(text));
  const digest = await writer.commit(leased, { size: text.length });
  const reader = await client.content.open(leased, digest);
  console.log("content", new TextDecoder().decode(await reader.readAt(0, reader.size)) === text);
  await client.content.delete(leased, digest);
});
const error = await client.images.get(context, "none").catch((caught) => caught);
console.log("not found", isErrorClass(error, "not-found"));
console.log("leases", (await client.leases.list(context, [])).length);
await client[Symbol.asyncDispose]();
`;

/** A Node user's settings; the declarations themselves are checked too. Of the platform only what Node and browsers share. */
const STRICT = {
  strict: true,
  exactOptionalPropertyTypes: true,
  noUncheckedIndexedAccess: true,
  skipLibCheck: false,
  noEmit: true,
  module: "nodenext",
  target: "es2023",
  lib: ["es2023", "esnext.disposable", "dom"],
  types: [],
};

/** Packs the SDK, makes its tarball with npm and unpacks that as an install in `folder` does. */
async function installPacked(folder: string): Promise<void> {
  const packed = join(folder, "packed");
  const made = await exec([process.execPath, join(repository, "tools/sdk-pack.ts"), packed]);
  expect({ code: made.code, stderr: made.stderr }).toEqual({ code: 0, stderr: "" });
  const tarball = await exec(["npm", "pack", "--silent", "--pack-destination", folder], { cwd: packed });
  expect(tarball.code).toBe(0);
  const target = join(folder, "node_modules/@stevedore/sdk");
  await mkdir(target, { recursive: true });
  const unpacked = await exec([
    "tar",
    "-xzf",
    join(folder, tarball.stdout.trim()),
    "-C",
    target,
    "--strip-components=1",
  ]);
  expect(unpacked).toEqual({ code: 0, stdout: "", stderr: "" });
}

for (const maker of ["debian", "ours"] satisfies Maker[]) {
  const able = process.getuid?.() === 0 && existsSync(program(maker, "containerd"));
  const why = able ? "" : " (skipped: needs root and the programs under build, see make build and tools/apt.sh peer)";
  describe.skipIf(!able)(`${maker} containerd${why}`, () => {
    let daemon: Daemon;
    let folder: string;
    beforeAll(async () => {
      folder = await mkdtemp(join(tmpdir(), "stevedore-sdk-"));
      await writeFile(join(folder, "image.tar"), await ociArchive());
      daemon = await Daemon.start({ maker });
      daemon.use(NAMESPACE);
    }, LIMIT_MS);
    afterAll(async () => {
      await daemon.close();
      await rm(folder, { recursive: true, force: true });
    }, LIMIT_MS);

    const run = async (command: readonly string[]): Promise<Result> => {
      const env = { CONTAINERD_ADDRESS: daemon.address, CONTAINERD_NAMESPACE: NAMESPACE };
      return exec(command, { env, cwd: folder });
    };
    const example = async (name: string, ...args: string[]): Promise<string> => {
      const { code, stdout, stderr } = await run([
        process.execPath,
        join(repository, `packages/sdk/examples/${name}.ts`),
        ...args,
      ]);
      expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
      return stdout;
    };

    test(
      "01 version",
      async () => expect(await example("01-version")).toMatch(/^version \S+ revision \S*\n$/),
      LIMIT_MS,
    );
    // The image comes first: the namespace, the list of images and the containers need it.
    test(
      "04 import",
      async () =>
        expect(await example("04-import", "image.tar")).toMatch(RegExp(`^imported ${IMAGE} sha256:[0-9a-f]{64}\n$`)),
      LIMIT_MS,
    );
    test(
      "02 namespaces",
      async () => expect(await example("02-namespaces")).toContain(`namespace ${NAMESPACE} {}`),
      LIMIT_MS,
    );
    test(
      "03 images",
      async () => expect(await example("03-images")).toMatch(RegExp(`^image ${IMAGE} sha256:\\S+ yes\n$`)),
      LIMIT_MS,
    );
    test(
      "05 run",
      async () => expect(await example("05-run", IMAGE)).toBe("hello from the container\nexit status 3\n"),
      LIMIT_MS,
    );
    test(
      "06 exec",
      async () => expect(await example("06-exec", IMAGE)).toBe("one more process\nexec status 0\n"),
      LIMIT_MS,
    );
    test("07 events", async () => expect(await example("07-events")).toBe("event /namespaces/create\n"), LIMIT_MS);
    test(
      "08 snapshots",
      async () =>
        expect(await example("08-snapshots")).toBe(
          "prepared bind\nview read-only\nsnapshot committed\nsnapshot view\n",
        ),
      LIMIT_MS,
    );
    test(
      "09 content",
      async () => expect(await example("09-content")).toMatch(/^content sha256:\S+ is what was written\n$/),
      LIMIT_MS,
    );
    test(
      "10 leases",
      async () => expect(await example("10-leases")).toBe("lease holds snapshots/overlayfs\ncollected\n"),
      LIMIT_MS,
    );
    // Debian's containerd is older than sandboxes.
    test.skipIf(maker === "debian")(
      "11 sandboxes",
      async () => expect(await example("11-sandboxes")).toBe("shim SANDBOX_READY true\nexit status 0\n"),
      LIMIT_MS,
    );

    test(
      "12 event log",
      async () =>
        expect(await example("12-event-log")).toBe(
          maker === "ours"
            ? "event /namespaces/create at a cursor\nevent /namespaces/delete at a cursor\n"
            : "this daemon keeps no log\n",
        ),
      LIMIT_MS,
    );

    test(
      "the packed root export runs on Node 22, installed from its tarball",
      async () => {
        const node = await pinnedNode();
        await installPacked(folder);
        await writeFile(join(folder, "program.mjs"), NODE_PROGRAM);
        expect(await run([node, "--version"])).toMatchObject({ stdout: `v${NODE_VERSION}\n` });
        const { stdout, stderr } = await run([node, "program.mjs"]);
        expect({ stdout, stderr }).toEqual({
          stdout: "version true\ncontent true\nnot found true\nleases 0\n",
          stderr: "",
        });
      },
      FETCH_LIMIT_MS,
    );
  });
}

test(
  "a strict TypeScript program takes the packed root export's types",
  async () => {
    const folder = await mkdtemp(join(tmpdir(), "stevedore-sdk-"));
    try {
      await installPacked(folder);
      await writeFile(join(folder, "program.mts"), TYPED_PROGRAM);
      await writeFile(
        join(folder, "tsconfig.json"),
        JSON.stringify({ compilerOptions: STRICT, files: ["program.mts"] }),
      );
      const checked = await exec([join(repository, "node_modules/.bin/tsc"), "-p", folder]);
      expect(checked).toEqual({ code: 0, stdout: "", stderr: "" });
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  },
  LIMIT_MS,
);
