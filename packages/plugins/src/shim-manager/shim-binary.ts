import { stat } from "node:fs/promises";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { AnySchema } from "@bufbuild/protobuf/wkt";
import { classified, decodeText, type Logger, withContext } from "@stevedore/base";
import { optionalDateFromProto } from "@stevedore/convert/timestamps";
import type { AnyValue } from "@stevedore/core";
import { type RunOptions, type RunResult, runCommand } from "@stevedore/os/spawn";
import {
  BootstrapParamsSchema,
  BootstrapResultSchema,
  LogLevel,
} from "@stevedore/wire/gen/containerd/runtime/bootstrap/v1/bootstrap_pb";
import { DeleteResponseSchema } from "@stevedore/wire/gen/containerd/task/v2/shim_pb";
import { type BootstrapRecord, type Bundle, checkVersion, parseStartAnswer } from "./bundle.ts";

/** What every call of a shim binary is told. */
export interface ShimCallSettings {
  readonly grpcAddress: string;
  readonly ttrpcAddress: string;
  /** A `containerd` whose `publish` takes events. */
  readonly publishBinary: string;
  /** The daemon's version, as the 2.3 form tells it. */
  readonly version: string;
  /** Folder of shim sockets; "" for `s` in the daemon's state folder. */
  readonly socketDir: string;
  readonly debug: boolean;
  /** The shims' environment, without what is added here. */
  readonly env: Readonly<Record<string, string>>;
  readonly log: Logger;
  /** Runs what leaves a shim behind; default {@link runCommand}. */
  readonly runStart?: (argv: readonly string[], options: RunOptions) => Promise<RunResult>;
}

/** How a task ended, as a shim's `delete` tells. */
export interface DeadExit {
  readonly pid: number;
  readonly exitStatus: number;
  readonly exitedAt: Date;
}

/** The way a binary takes its parameters. */
type Bootstrap = "params" | "older";

/** The bootstrap each binary understood, by device, inode and time of its file: an upgrade is asked anew. */
const understood = new Map<string, Bootstrap>();

/**
 * Tells a shim of ours that it serves many containers of the daemon with this pid: none of them ends it, and it ends when it
 * is left alone.
 */
const SHARED_VARIABLE = "STEVEDORE_SHARED_SHIM";

/** Binaries remembered; nobody installs more shims than a few. */
const MAX_REMEMBERED = 64;

/** What a shim may print; an answer has a few hundred bytes. */
const MAX_OUTPUT_BYTES = 64 << 10;

/** Calls of one shim binary for one bundle. */
export class ShimBinary {
  readonly #path: string;
  readonly #bundle: Bundle;
  readonly #settings: ShimCallSettings;

  constructor(path: string, bundle: Bundle, settings: ShimCallSettings) {
    this.#path = path;
    this.#bundle = bundle;
    this.#settings = settings;
  }

  get path(): string {
    return this.#path;
  }

  /** Which file it is now: an upgrade under the same path is another one. @throws not-found */
  fileKey(): Promise<string> {
    return fileKey(this.#path);
  }

  /**
   * Has the binary start a shim. The form of containerd 2.3 is tried first; a binary that fails on it gets the older
   * one, and from then on at once.
   *
   * @param options the runtime's options.
   * @throws unknown with what the binary printed.
   */
  async start(options: AnyValue | undefined, signal: AbortSignal): Promise<BootstrapRecord> {
    return this.#startAs(options, signal);
  }

  /** As {@link ShimBinary.start}, of a shim of ours for any number of containers. */
  async startShared(options: AnyValue | undefined, signal: AbortSignal): Promise<BootstrapRecord> {
    const shared = new ShimBinary(this.#path, this.#bundle, {
      ...this.#settings,
      env: { ...this.#settings.env, [SHARED_VARIABLE]: String(process.pid) },
    });
    return shared.#startAs(options, signal);
  }

  async #startAs(options: AnyValue | undefined, signal: AbortSignal): Promise<BootstrapRecord> {
    const key = await fileKey(this.#path);
    const known = understood.get(key);
    if (known === "older") return this.#startOlder(options, signal);
    try {
      const record = await this.#startWithParams(options, signal);
      remember(key, "params");
      return record;
    } catch (error) {
      if (known === "params" || signal.aborted) throw error;
      this.#settings.log.debug("shim did not take bootstrap parameters, trying the older form", {
        runtime: this.#path,
        error,
      });
      let record: BootstrapRecord;
      try {
        record = await this.#startOlder(options, signal);
      } catch {
        throw error; // it fails either way: the first reason is the one to tell
      }
      remember(key, "older");
      return record;
    }
  }

  /** Has the binary clean up after a shim that is gone. @throws unknown with what it printed */
  async delete(signal: AbortSignal): Promise<DeadExit> {
    const { id, path } = this.#bundle;
    const ran = await this.#run(["-id", id, "-bundle", path, ...this.#debugFlag(), "delete"], { signal });
    const complaints = decodeText(ran.stderr).trim();
    if (ran.code !== 0) throw classified("unknown", `${complaints}: exit status ${ran.code}`);
    if (complaints !== "") {
      this.#settings.log.warn("warnings while cleaning up dead shim", { id, warnings: complaints });
    }
    const answer = fromBinary(DeleteResponseSchema, ran.stdout);
    return {
      pid: answer.pid,
      exitStatus: answer.exitStatus,
      exitedAt: optionalDateFromProto(answer.exitedAt) ?? new Date(),
    };
  }

  async #startWithParams(options: AnyValue | undefined, signal: AbortSignal): Promise<BootstrapRecord> {
    const { id, namespace } = this.#bundle;
    const { grpcAddress, ttrpcAddress, publishBinary, version, socketDir, debug } = this.#settings;
    const params = create(BootstrapParamsSchema, {
      instanceId: id,
      namespace,
      logLevel: debug ? LogLevel.DEBUG : LogLevel.INFO,
      containerdVersion: version,
      containerdTtrpcAddress: ttrpcAddress,
      containerdGrpcAddress: grpcAddress,
      containerdBinary: publishBinary,
      extensions: options === undefined ? [] : [{ value: anyOf(options) }],
      socketDir,
    });
    return this.#start(toBinary(BootstrapParamsSchema, params), signal);
  }

  async #startOlder(options: AnyValue | undefined, signal: AbortSignal): Promise<BootstrapRecord> {
    const input =
      options === undefined || options.typeUrl === ""
        ? new Uint8Array()
        : toBinary(AnySchema, create(AnySchema, anyOf(options)));
    return this.#start(input, signal);
  }

  async #start(input: Uint8Array, signal: AbortSignal): Promise<BootstrapRecord> {
    const run = this.#settings.runStart ?? runCommand;
    const ran = await this.#run(["-id", this.#bundle.id, ...this.#debugFlag(), "start"], { signal, input }, run);
    if (ran.code !== 0) {
      const printed = `${decodeText(ran.stdout)}${decodeText(ran.stderr)}`.trim();
      throw classified("unknown", `${printed}: exit status ${ran.code}`);
    }
    return parseAnswer(ran.stdout);
  }

  async #run(
    args: readonly string[],
    options: { readonly signal: AbortSignal; readonly input?: Uint8Array },
    run: (argv: readonly string[], options: RunOptions) => Promise<RunResult> = runCommand,
  ): Promise<RunResult> {
    const { namespace, path: cwd } = this.#bundle;
    const { grpcAddress, ttrpcAddress, publishBinary, env } = this.#settings;
    const common = ["-namespace", namespace, "-address", grpcAddress, "-publish-binary", publishBinary];
    try {
      return await run([this.#path, ...common, ...args], {
        cwd,
        env: {
          ...env,
          GRPC_ADDRESS: grpcAddress,
          TTRPC_ADDRESS: ttrpcAddress,
          NAMESPACE: namespace,
          // What containerd 2.3 itself tells, so that no shim answers in a form it would not use there.
          MAX_SHIM_VERSION: "2",
        },
        maxOutputBytes: MAX_OUTPUT_BYTES,
        ...options,
      });
    } catch (error) {
      throw withContext(`run shim ${this.#path}`, error);
    }
  }

  #debugFlag(): string[] {
    return this.#settings.debug ? ["-debug"] : [];
  }
}

function anyOf({ typeUrl, value }: AnyValue): { typeUrl: string; value: Uint8Array } {
  return { typeUrl, value };
}

/** A BootstrapResult, or what older shims print. A BootstrapResult begins with a field tag, which no text does. */
function parseAnswer(output: Uint8Array): BootstrapRecord {
  const FIRST_PRINTABLE = 0x20;
  if ((output[0] ?? FIRST_PRINTABLE) >= FIRST_PRINTABLE) return parseStartAnswer(decodeText(output));
  const { version, address, protocol } = fromBinary(BootstrapResultSchema, output);
  return checkVersion({ version, address, protocol });
}

function remember(key: string, form: Bootstrap): void {
  if (understood.size >= MAX_REMEMBERED) understood.clear();
  understood.set(key, form);
}

async function fileKey(path: string): Promise<string> {
  const found = await stat(path).catch((error: unknown) => {
    throw withContext(`find shim ${path}`, error);
  });
  return `${found.dev}:${found.ino}:${found.mtimeMs}`;
}
