import { readdir } from "node:fs/promises";
import { join } from "node:path";
import {
  classified,
  decodeText,
  encodeText,
  isErrorClass,
  type Logger,
  type RequestContext,
  withContext,
} from "@stevedore/base";
import type { Descriptor, ImageJudgement, ImageVerifier } from "@stevedore/core";
import type { OwnedFd } from "@stevedore/os/fd";
import { readChunks } from "@stevedore/os/io";
import { SIGKILL } from "@stevedore/os/signals";
import { pickEnvironment, spawnChild } from "@stevedore/os/spawn";

/** Bytes of a verifier's output that are looked at; the rest is read and dropped. containerd's. */
const OUTPUT_LIMIT = 32 * 1024;

/** Media type of what a verifier reads. */
const DESCRIPTOR_TYPE = "application/vnd.oci.descriptor.v1+json";

/** What of the daemon's environment a verifier gets: what it takes to find programs and registries. */
const INHERITED = [
  "PATH",
  "HOME",
  "LANG",
  "TMPDIR",
  "HTTP_PROXY",
  "HTTPS_PROXY",
  "NO_PROXY",
  "http_proxy",
  "https_proxy",
  "no_proxy",
  "SSL_CERT_FILE",
  "SSL_CERT_DIR",
];

export interface BinDirOptions {
  readonly binDir: string;
  /** Programs that are run, the first by name; below 0: all. */
  readonly maxVerifiers: number;
  readonly timeoutMs: number;
  readonly log: Logger;
}

/**
 * Verifies images by the programs in a folder, all of which must exit with 0. Each is given the image's name and digest as
 * arguments and its descriptor on stdin. A folder that is missing or empty lets every image pass.
 */
export function createBinDirVerifier(options: BinDirOptions): ImageVerifier {
  const { binDir, maxVerifiers, log } = options;
  return {
    verify: async (context, name, descriptor): Promise<ImageJudgement> => {
      const programs = await programsIn(binDir);
      if (programs === undefined) {
        return { ok: true, reason: `image verifier directory ${binDir} does not exist` };
      }
      if (programs.length === 0) return { ok: true, reason: `no image verifier binaries found in ${binDir}` };
      const run = maxVerifiers < 0 ? programs : programs.slice(0, maxVerifiers);
      if (run.length < programs.length) {
        log.warn("image verifiers are left out: the folder has more than max_verifiers", {
          directory: binDir,
          found: programs.length,
          max_verifiers: maxVerifiers,
        });
      }
      const reasons: string[] = [];
      for (const program of run) {
        const start = performance.now();
        let result: Awaited<ReturnType<typeof runVerifier>>;
        try {
          result = await runVerifier({ ...options, program }, context, { name, descriptor });
        } catch (error) {
          context.signal.throwIfAborted();
          const elapsed = Math.round(performance.now() - start);
          throw withContext(`failed to call verifier ${program} (runtime ${elapsed}ms)`, error);
        }
        if (result.code !== 0) {
          const reason = `verifier ${program} rejected image (exit code ${result.code}): ${result.said}`;
          log.warn("image verifier blocked an image", { name, digest: descriptor.digest, reason });
          return { ok: false, reason };
        }
        reasons.push(`${program} => ${result.said}`);
      }
      return { ok: true, reason: reasons.join(", ") };
    },
  };
}

async function programsIn(directory: string): Promise<string[] | undefined> {
  try {
    return (await readdir(directory)).sort();
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw withContext("failed to list directory contents", error);
  }
}

/** @throws deadline-exceeded when it takes too long, internal when a signal ends it; it and what it started are gone then */
async function runVerifier(
  { program, binDir, timeoutMs, log }: BinDirOptions & { readonly program: string },
  context: RequestContext,
  { name, descriptor }: { readonly name: string; readonly descriptor: Descriptor },
): Promise<{ readonly code: number; readonly said: string }> {
  const timeout = AbortSignal.timeout(timeoutMs);
  const signal = AbortSignal.any([context.signal, timeout]);
  const { digest, mediaType, size, annotations } = descriptor;
  const document = { mediaType, digest, size, ...(annotations === undefined ? {} : { annotations }) };
  await using child = spawnChild(
    [join(binDir, program), "-name", name, "-digest", digest, "-stdin-media-type", DESCRIPTOR_TYPE],
    {
      env: pickEnvironment(INHERITED),
      stdin: { bytes: encodeText(`${JSON.stringify(document)}\n`) },
      stdout: "pipe",
      stderr: "pipe",
      newSession: true,
      killGroup: true,
      signal,
      killSignal: SIGKILL,
    },
  );
  const [said, errors, status] = await Promise.all([
    outputOf(child.stdout, signal),
    outputOf(child.stderr, signal),
    child.exited,
  ]);
  context.signal.throwIfAborted();
  if (timeout.aborted) {
    throw classified("deadline-exceeded", `the verifier took longer than per_verifier_timeout, ${timeoutMs}ms`);
  }
  for (const line of errors.text.split("\n")) {
    if (line !== "") log.debug(line, { image_verifier: program, stream: "stderr" });
  }
  if (status.signal !== undefined) {
    throw classified("internal", `waiting on command to exit: signal ${status.signal}`);
  }
  return { code: status.code, said: `${said.text.trim()}${said.cut ? "(stdout truncated)" : ""}` };
}

/** The beginning of what a pipe gives; it is read to its end, so that its writer never gets an error. */
async function outputOf(
  end: OwnedFd | undefined,
  signal: AbortSignal,
): Promise<{ readonly text: string; readonly cut: boolean }> {
  if (end === undefined) return { text: "", cut: false };
  const kept: Uint8Array[] = [];
  let room = OUTPUT_LIMIT;
  let cut = false;
  try {
    for await (const chunk of readChunks(end.release(), { signal })) {
      if (chunk.byteLength > room) cut = true;
      if (room > 0) kept.push(chunk.slice(0, room));
      room = Math.max(0, room - chunk.byteLength);
    }
  } catch (error) {
    // The end of its time, which its exit tells as well.
    if (!signal.aborted && !isErrorClass(error, "canceled")) throw error;
  }
  return { text: decodeText(Buffer.concat(kept)), cut };
}
