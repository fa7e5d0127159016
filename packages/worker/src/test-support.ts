import { TarParser } from "@stevedore/oci/tar/parser";
import { openEntry, setUmask } from "@stevedore/os/at-calls";
import { AT, closeQuietly, O } from "@stevedore/os/fd";
import type { Step } from "@stevedore/os/test-steps";
import * as fc from "fast-check";
import { Unpacker } from "./unpack.ts";
import { WalkDiff } from "./walk-diff.ts";

/** Only for tests: the unpacker and the double walk in this process, and random steps for trees. */

function openFolder(path: string): number {
  return openEntry(AT.FDCWD, path, O.RDONLY | O.DIRECTORY);
}

export interface Into {
  readonly overlay?: boolean;
  readonly lowers?: readonly string[];
  readonly markImplied?: boolean;
}

export function unpack(archive: Uint8Array, target: string, into: Into = {}): Unpacker {
  const root = openFolder(target);
  const lowers = (into.lowers ?? []).map(openFolder);
  const umask = setUmask(0);
  const unpacker = new Unpacker({
    root,
    overlay: into.overlay ?? false,
    userXattr: false,
    lowers,
    markImplied: into.markImplied ?? false,
  });
  try {
    const parser = new TarParser(unpacker);
    parser.push(archive);
    parser.end();
    unpacker.complete();
    return unpacker;
  } finally {
    unpacker.close();
    setUmask(umask);
    for (const fd of [root, ...lowers]) closeQuietly(fd);
  }
}

export function diff(lower: string | undefined, upper: string, sourceDateEpoch?: number): Buffer {
  const fds = [lower === undefined ? -1 : openFolder(lower), openFolder(upper)] as const;
  try {
    const walk = new WalkDiff({
      lower: lower === undefined ? undefined : fds[0],
      upper: fds[1],
      ...(sourceDateEpoch === undefined ? {} : { sourceDateEpoch }),
    });
    return Buffer.concat([...walk.archive()]);
  } finally {
    process.chdir("/"); // the walk steps into folders to read attributes
    for (const fd of fds) closeQuietly(fd);
  }
}

const part = fc.constantFrom("a", "b", "c", "ü", "long".repeat(20));
const path = fc.array(part, { minLength: 1, maxLength: 4 }).map((parts) => parts.join("/"));
const mode = fc.constantFrom(0o644, 0o755, 0o4755, 0o2750, 0o1777, 0o600, 0o400);

const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ do: fc.constant("folder" as const), path, mode }),
  fc.record({ do: fc.constant("file" as const), path, size: fc.nat(5000), fill: fc.nat(255), mode }),
  fc.record({ do: fc.constant("file" as const), path, size: fc.constantFrom(0, 1, 512), fill: fc.nat(255), mode }),
  fc.record({ do: fc.constant("holes" as const), path, size: fc.nat(200_000) }),
  fc.record({
    do: fc.constant("symlink" as const),
    path,
    to: fc.oneof(path, fc.constantFrom("..", "/", "/a", "../../b")),
  }),
  fc.record({ do: fc.constant("link" as const), path, to: path }),
  fc.record({ do: fc.constantFrom("fifo" as const, "char" as const), path }),
  fc.record({ do: fc.constant("owner" as const), path, id: fc.nat(70_000) }),
  fc.record({ do: fc.constant("attribute" as const), path, value: fc.nat(255) }),
  fc.record({ do: fc.constant("remove" as const), path }),
  fc.record({ do: fc.constant("remove" as const), path }),
);

export const steps: fc.Arbitrary<Step[]> = fc.array(step, { maxLength: 25 });
