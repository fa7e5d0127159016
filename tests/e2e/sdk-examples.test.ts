// Runs every example as a program of its own, and the packed root export on Node, against each daemon that is there.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Daemon, type Maker, program, repository } from "../harness/daemon.ts";
import { IMAGE, ociArchive } from "../harness/images.ts";
import { exec, type Result } from "../harness/process.ts";

const NAMESPACE = "examples";
const LIMIT_MS = 40_000;
const node = Bun.which("node");
/** Node before 22 lacks one function that the bundle uses; with it the rest can be shown on those too. */
const FILL_IN =
  "Promise.withResolvers ??= () => { let resolve, reject; const promise = new Promise((a, b) => { resolve = a; reject = b; }); return { promise, resolve, reject }; };";

const NODE_PROGRAM = `
import { backgroundContext, connectClient, isErrorClass, withLease } from "./index.mjs";
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

    test.skipIf(node === null)(
      "the packed root export runs on Node",
      async () => {
        const packed = await exec([process.execPath, join(repository, "tools/sdk-pack.ts"), folder]);
        expect({ code: packed.code, stderr: packed.stderr }).toEqual({ code: 0, stderr: "" });
        await writeFile(join(folder, "fill-in.mjs"), FILL_IN);
        await writeFile(join(folder, "program.mjs"), NODE_PROGRAM);
        const { stdout, stderr } = await run([node ?? "", "--import", "./fill-in.mjs", "program.mjs"]);
        expect({ stdout, stderr }).toEqual({
          stdout: "version true\ncontent true\nnot found true\nleases 0\n",
          stderr: "",
        });
      },
      LIMIT_MS,
    );
  });
}
