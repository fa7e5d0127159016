import { Database } from "bun:sqlite";
import { describe, expect, test } from "bun:test";
import { mkdir, open, readdir, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { errorClassOf } from "@stevedore/base";
import { refusalOf } from "@stevedore/core/content-suite";
import { inDefault } from "@stevedore/core/stores-fixture";
import { digestOf } from "@stevedore/oci/digest";
import { DATABASE_FILE, MetadataDatabase } from "./database.ts";
import { temporaryDatabase, temporaryFolder, temporaryStore } from "./fixture.ts";
import { MIGRATIONS, migrate, NewerSchemaError, SCHEMA_VERSION, schemaVersion } from "./schema.ts";
import { createSnapshotRecords } from "./snapshot-records.ts";

const scope = { namespace: "default", lease: undefined };
const image = (name: string) => ({
  name,
  labels: {},
  target: { mediaType: "m", digest: digestOf(name), size: 1 },
});

describe("MetadataDatabase", () => {
  test("one call that fails does not harm the others of its batch", async () => {
    await using made = await temporaryDatabase();
    const { database } = made;
    const attempts = await Promise.allSettled(
      ["a", "b", "a", "", "c"].map((name) => database.call("createImage", { scope, image: image(name) })),
    );
    expect(attempts.map((each) => each.status)).toEqual([
      "fulfilled",
      "fulfilled",
      "rejected",
      "rejected",
      "fulfilled",
    ]);
    const classes = attempts.flatMap((each) => (each.status === "rejected" ? [errorClassOf(each.reason)] : []));
    expect(classes).toEqual(["already-exists", "invalid-argument"]);
    const rows = database.reader.prepare<{ name: string }, []>("SELECT name FROM images ORDER BY name").all();
    expect(rows.map((row) => row.name)).toEqual(["a", "b", "c"]);
  });

  test("reads see every change that has resolved", async () => {
    await using store = await temporaryStore();
    for (let i = 0; i < 50; i++) {
      await store.images.create(inDefault, image(`i${i}`));
      expect(await store.images.list(inDefault, [])).toHaveLength(i + 1);
    }
  });

  test("mutations are told, deletions as dirty", async () => {
    await using made = await temporaryDatabase();
    const seen: boolean[] = [];
    using _listening = made.database.onMutation((dirty) => seen.push(dirty));
    await made.database.call("createImage", { scope, image: image("a") });
    await made.database.call("deleteImage", { scope, name: "a", target: undefined });
    await made.database.call("createImage", { scope, image: image("") }).catch(() => undefined);
    await made.database.call("setFact", { name: "f", value: "v" });
    expect(seen).toEqual([false, true]);
  });

  test("what was made is there after a reopen, and a closed store refuses", async () => {
    await using folder = await temporaryFolder();
    {
      await using database = await MetadataDatabase.open({ directory: folder.path });
      expect(database.created).toBe(true);
      await database.call("createImage", { scope, image: image("a") });
    }
    const database = await MetadataDatabase.open({ directory: folder.path });
    expect(database.created).toBe(false);
    expect(database.reader.prepare("SELECT name FROM images").all()).toEqual([{ name: "a" }]);
    await database[Symbol.asyncDispose]();
    expect(await refusalOf(database.call("createImage", { scope, image: image("b") }))).toEqual({
      errorClass: "unavailable",
      message: "metadata: store is closed: unavailable",
    });
  });

  test("calls under way when the store closes are finished first", async () => {
    await using folder = await temporaryFolder();
    const database = await MetadataDatabase.open({ directory: folder.path });
    const calls = Array.from({ length: 2000 }, (_, i) =>
      database.call("createImage", { scope, image: image(`i${i}`) }),
    );
    const closing = database[Symbol.asyncDispose]();
    expect((await Promise.allSettled(calls)).every((each) => each.status === "fulfilled")).toBe(true);
    await closing;
  });

  test("a bolt file in the folder is left alone, and the folder is for its owner only", async () => {
    await using folder = await temporaryFolder();
    const directory = join(folder.path, "io.containerd.metadata.v1.bolt");
    await mkdir(directory, { mode: 0o700 });
    await writeFile(join(directory, "meta.db"), "bolt");
    await using _database = await MetadataDatabase.open({ directory });
    expect(await readdir(directory)).toContain("meta.db");
    expect((await stat(directory)).mode & 0o777).toBe(0o700);
  });

  test.each([
    ["no database at all", async (path: string): Promise<void> => writeFile(path, "this is not SQLite".repeat(500))],
    [
      "pages overwritten",
      async (path: string): Promise<void> => {
        await using file = await open(path, "r+");
        const { size } = await file.stat();
        await file.write(Buffer.alloc(4096 * 3, 0xab), 0, 4096 * 3, Math.max(4096, size - 4096 * 4));
      },
    ],
    ["cut off", async (path: string): Promise<void> => truncateHalf(path)],
  ])("a damaged file is put aside and the daemon goes on: %s", async (_what, damage) => {
    await using folder = await temporaryFolder();
    {
      await using database = await MetadataDatabase.open({ directory: folder.path });
      await Promise.all(
        Array.from({ length: 500 }, (_, i) => database.call("createImage", { scope, image: image(`image ${i}`) })),
      );
      await database.call("createLease", { scope, id: "l", labels: {} });
    }
    await damage(join(folder.path, DATABASE_FILE));
    await using database = await MetadataDatabase.open({ directory: folder.path });
    const report = database.damage;
    expect(report?.reason).not.toBe("");
    expect(await readdir(folder.path)).toContain(report?.quarantined.split("/").pop() ?? "");
    // Whatever is on disk may be needed to rebuild: nothing without a record is removed any more.
    expect(database.fact("orphans")).toBe("keep");
    await database.call("createImage", { scope, image: image("after") });
    const count = database.reader.prepare<{ n: number }, []>("SELECT count(*) AS n FROM images").get()?.n ?? 0;
    expect(count).toBe((report?.kept["images"] ?? 0) + 1);
  });

  test("a file of a later version is refused and not touched", async () => {
    await using folder = await temporaryFolder();
    await (await MetadataDatabase.open({ directory: folder.path }))[Symbol.asyncDispose]();
    const path = join(folder.path, DATABASE_FILE);
    {
      using db = new Database(path);
      db.exec(`PRAGMA user_version = ${SCHEMA_VERSION + 1}`);
    }
    const refusal = await refusalOf(MetadataDatabase.open({ directory: folder.path }));
    expect(refusal.message).toBe(
      `metadata schema ${SCHEMA_VERSION + 1} is newer than ${SCHEMA_VERSION}, the newest this version knows`,
    );
    expect((await readdir(folder.path)).filter((name) => name.includes("damaged"))).toEqual([]);
  });

  test("a process killed in the middle of commits loses nothing it had confirmed", async () => {
    await using folder = await temporaryFolder();
    const confirmed: string[] = [];
    for (let round = 0; round < 6; round++) {
      const child = Bun.spawn([process.execPath, join(import.meta.dir, "crash-child.ts"), folder.path, `r${round}`], {
        stdin: "ignore",
        stdout: "pipe",
        stderr: "inherit",
      });
      // From its tenth confirmed commit on, however long a busy machine takes to come there.
      let timer: ReturnType<typeof setTimeout> | undefined;
      let output = "";
      const decoder = new TextDecoder();
      for await (const part of child.stdout) {
        output += decoder.decode(part, { stream: true });
        if (output.split("\n").length > 10) timer ??= setTimeout(() => child.kill("SIGKILL"), 50 + round * 37);
      }
      clearTimeout(timer);
      await child.exited;
      confirmed.push(...output.split("\n").slice(0, -1));
    }
    expect(confirmed.length).toBeGreaterThan(50);
    await using database = await MetadataDatabase.open({ directory: folder.path });
    expect(database.damage).toBeUndefined();
    const ids = await createSnapshotRecords(database, "crash").idsInUse();
    const names = new Set(ids.values());
    expect(confirmed.filter((name) => !names.has(name))).toEqual([]);
    expect(names.size).toBe(ids.size);
  }, 30_000);

  test("a full disk fails the calls that do not fit, and only them", async () => {
    await using folder = await temporaryFolder();
    const mount = Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder.path]);
    if (mount.exitCode !== 0) return; // Without the right to mount there is no small disk.
    try {
      await using database = await MetadataDatabase.open({ directory: join(folder.path, "m") });
      await database.call("createImage", { scope, image: image("before") });
      await writeFile(join(folder.path, "fill"), Buffer.alloc(4 * 1024 * 1024)).catch(() => undefined);
      const big = {
        ...image("big"),
        labels: Object.fromEntries(Array.from({ length: 64 }, (_, i) => [`k${i}`, "v".repeat(4000)])),
      };
      const refusal = await refusalOf(database.call("createImage", { scope, image: big }));
      expect(refusal.errorClass).toBe("resource-exhausted");
      const attempts = await Promise.allSettled([
        database.call("createImage", { scope, image: big }),
        database.call("createImage", { scope, image: image("") }),
      ]);
      expect(attempts.map((each) => each.status)).toEqual(["rejected", "rejected"]);
      expect(database.reader.prepare("SELECT name FROM images").all()).toEqual([{ name: "before" }]);
      await rm(join(folder.path, "fill"));
      await database.call("createImage", { scope, image: big });
      expect(database.reader.prepare("SELECT name FROM images ORDER BY name").all()).toHaveLength(2);
    } finally {
      // Statements made by this test may still hold the file.
      Bun.spawnSync(["umount", "-l", folder.path]);
    }
  });
});

async function truncateHalf(path: string): Promise<void> {
  await using file = await open(path, "r+");
  await file.truncate(Math.floor((await file.stat()).size / 2 / 4096) * 4096 + 100);
}

describe("migrate()", () => {
  test("each step leads to the next, from an empty file", () => {
    for (let version = 0; version <= MIGRATIONS.length; version++) {
      using db = new Database(":memory:");
      migrate(db, version);
      expect(schemaVersion(db)).toBe(version);
      migrate(db);
      expect(schemaVersion(db)).toBe(SCHEMA_VERSION);
      expect(() => migrate(db, version - 1)).toThrow(NewerSchemaError);
    }
  });

  test("version 2 keeps moments in microseconds", () => {
    using db = new Database(":memory:");
    migrate(db, 1);
    db.exec("INSERT INTO leases (namespace, id, labels, created_at) VALUES ('n', 'l', '{}', 1795250928536)");
    db.exec(
      "INSERT INTO content (namespace, digest, size, labels, created_at, updated_at) VALUES ('n', 'd', 1, '{}', 1, 2)",
    );
    migrate(db, 2);
    expect(db.prepare("SELECT created_at FROM leases").get()).toEqual({ created_at: 1_795_250_928_536_000 });
    expect(db.prepare("SELECT created_at, updated_at FROM content").get()).toEqual({
      created_at: 1_000,
      updated_at: 2_000,
    });
  });

  test("version 1 has every table and refuses values of other types", () => {
    using db = new Database(":memory:");
    migrate(db, 1);
    const tables = db
      .prepare<{ name: string }, []>("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
      .all()
      .map((row) => row.name);
    expect(tables).toEqual([
      "backend_snapshots",
      "containers",
      "content",
      "facts",
      "images",
      "ingests",
      "lease_resources",
      "leases",
      "namespaces",
      "sandboxes",
      "sequences",
      "snapshot_commits",
      "snapshots",
    ]);
    expect(() =>
      db.exec(
        "INSERT INTO content (namespace, digest, size, labels, created_at, updated_at) VALUES ('n','d','x','{}',0,0)",
      ),
    ).toThrow();
  });
});
