// What a case of the status table works with: raw stubs of one daemon, and the objects a method needs to find.
import { createHash } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { DescService } from "@bufbuild/protobuf";
import { CLASS_TEXT, ClassifiedError, classified, isErrorClass } from "@stevedore/base";
import { Containers } from "@stevedore/wire/gen/containerd/services/containers/v1/containers_pb";
import { Content, WriteAction } from "@stevedore/wire/gen/containerd/services/content/v1/content_pb";
import { Images } from "@stevedore/wire/gen/containerd/services/images/v1/images_pb";
import { Leases } from "@stevedore/wire/gen/containerd/services/leases/v1/leases_pb";
import { Namespaces } from "@stevedore/wire/gen/containerd/services/namespaces/v1/namespace_pb";
import { Snapshots } from "@stevedore/wire/gen/containerd/services/snapshots/v1/snapshots_pb";
import { createGrpcTransport, type GrpcTransport } from "@stevedore/wire/grpc/client";
import { type CallOptions, type Client, createClient } from "@stevedore/wire/rpc/index";
import { statusOf } from "@stevedore/wire/status";
import type { Daemon } from "../harness/daemon.ts";
import { IMAGE, ociArchive } from "../harness/images.ts";
import { eventually } from "../harness/process.ts";

/** A digest of the right form that no blob has. */
export const NO_BLOB = `sha256:${"0".repeat(64)}`;
export const LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar";
export const SPEC = { typeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Spec", value: Buffer.from("{}") };

/** Longest wait for one call: no case needs more, and a hanging one must not hold the run. */
const CALL_LIMIT_MS = 20_000;

/** What a client is told: the code, and the text where it is a failure. */
export interface Told {
  readonly code: number;
  readonly message?: string;
}

// Go clients put the class's text behind a message that lacks it, so whether a daemon sends it tells nobody anything.
const CLASS_SUFFIX = new RegExp(`(?:: (?:${Object.values(CLASS_TEXT).join("|")}))+$`);

let counter = 0;

export interface CallChoices {
  /** "" for none. */
  readonly namespace?: string;
  readonly signal?: AbortSignal;
  readonly timeoutMs?: number;
  readonly leased?: boolean;
}

export class World implements AsyncDisposable {
  readonly daemon: Daemon;
  readonly namespace: string;
  readonly #transport: GrpcTransport;
  /** Keeps what cases make from being collected between two of their calls. */
  readonly #lease = "hold";
  #image: Promise<string> | undefined;

  private constructor(daemon: Daemon) {
    this.daemon = daemon;
    this.namespace = this.name("ns");
    daemon.use(this.namespace);
    this.#transport = createGrpcTransport({ address: daemon.address });
  }

  static async open(daemon: Daemon): Promise<World> {
    const world = new World(daemon);
    await world.stub(Leases).create({ id: world.#lease }, world.call({ leased: false }));
    return world;
  }

  /** A name nobody else has; messages are compared with its number left out. */
  name(of: string): string {
    counter += 1;
    return `${of}-st${counter}`;
  }

  /** A message without what differs from run to run. */
  shown(message: string): string {
    return message
      .replaceAll(this.daemon.dir, "DIR")
      .replace(/-st\d+/g, "")
      .replace(/\b[0-9a-f]{64}\b/g, "DIGEST")
      .replace(/"ns\/\d+\//g, '"ns/N/')
      .replace(CLASS_SUFFIX, "");
  }

  stub<S extends DescService>(service: S): Client<S> {
    return createClient(service, this.#transport);
  }

  /** How cases call: in the world's namespace. */
  call(more: CallChoices = {}): CallOptions {
    const { namespace = this.namespace, signal, timeoutMs = CALL_LIMIT_MS, leased = true } = more;
    return {
      timeoutMs,
      ...(signal === undefined ? {} : { signal }),
      metadata: {
        ...(namespace === "" ? {} : { "containerd-namespace": namespace }),
        ...(leased && namespace === this.namespace ? { "containerd-lease": this.#lease } : {}),
      },
    };
  }

  /** A blob with a lease-free life: the world is shorter than any collection's delay. */
  async blob(text = this.name("blob")): Promise<string> {
    const data = Buffer.from(text);
    const digest = `sha256:${createHash("sha256").update(data).digest("hex")}`;
    const ref = this.name("ref");
    const answers = this.stub(Content).write(
      once({ action: WriteAction.COMMIT, ref, total: BigInt(data.byteLength), expected: digest, data }),
      this.call(),
    );
    await drain(answers);
    return digest;
  }

  async image(): Promise<string> {
    const name = this.name("docker.io/library/image");
    const digest = await this.blob();
    const target = { mediaType: LAYER_TYPE, digest, size: 1n };
    await this.stub(Images).create({ image: { name, target } }, this.call());
    return name;
  }

  async container(): Promise<string> {
    const id = this.name("c");
    const runtime = { name: "io.containerd.runc.v2" };
    await this.stub(Containers).create({ container: { id, runtime, spec: SPEC } }, this.call());
    return id;
  }

  async lease(): Promise<string> {
    const id = this.name("lease");
    await this.stub(Leases).create({ id }, this.call());
    return id;
  }

  async otherNamespace(): Promise<string> {
    const name = this.name("other");
    await this.stub(Namespaces).create({ namespace: { name } }, this.call());
    return name;
  }

  /** An active snapshot without parent. */
  async active(): Promise<string> {
    const key = this.name("active");
    await this.stub(Snapshots).prepare({ snapshotter: "native", key }, this.call());
    return key;
  }

  async committed(): Promise<string> {
    const name = this.name("committed");
    await this.stub(Snapshots).commit({ snapshotter: "native", name, key: await this.active() }, this.call());
    return name;
  }

  /** A running task made by Debian's ctr. */
  async task(command: readonly string[] = ["sleep", "1000"]): Promise<string> {
    this.#image ??= this.#import();
    const id = this.name("task");
    const ran = await this.daemon.ctr("debian", this.namespace, [
      "run",
      "--detach",
      "--null-io",
      "--snapshotter",
      "native",
      await this.#image,
      id,
      ...command,
    ]);
    if (ran.code !== 0) throw new Error(`ctr run: ${ran.stderr}`);
    return id;
  }

  /** A container that can become a task, with its root file system's mounts. */
  async taskless(): Promise<string> {
    this.#image ??= this.#import();
    const id = this.name("task");
    const command = ["containers", "create", "--snapshotter", "native", await this.#image, id, "sleep", "1000"];
    const ran = await this.daemon.ctr("debian", this.namespace, command);
    if (ran.code !== 0) throw new Error(`ctr containers create: ${ran.stderr}`);
    return id;
  }

  async #import(): Promise<string> {
    const archive = join(this.daemon.dir, `${this.namespace}.tar`);
    await writeFile(archive, await ociArchive({}));
    const ran = await this.daemon.ctr("debian", this.namespace, [
      "images",
      "import",
      "--snapshotter",
      "native",
      archive,
    ]);
    if (ran.code !== 0) throw new Error(`ctr images import: ${ran.stderr}`);
    return IMAGE;
  }

  /** Runs a case and says what its client was told. Throws what is no answer of the daemon. */
  async tell(run: (world: World) => Promise<unknown>): Promise<Told> {
    try {
      await run(this);
      return { code: 0 };
    } catch (error) {
      if (!(error instanceof ClassifiedError)) throw error;
      const { code, message } = statusOf(error);
      return { code, message: this.shown(message) };
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { leases } = await this.stub(Leases).list({}, this.call({ leased: false }));
    for (const { id } of leases) await this.stub(Leases).delete({ id }, this.call({ leased: false }));
    const { statuses } = await this.stub(Content).listStatuses({}, this.call({ leased: false }));
    for (const { ref } of statuses) {
      await eventually(`the ingest ${ref} to go`, async () => {
        try {
          return await this.stub(Content).abort({ ref }, this.call({ leased: false }));
        } catch (error) {
          // A peer that has not yet ended a cancelled writer still writes into the folder it removes.
          if (isErrorClass(error, "unknown")) return undefined;
          throw error;
        }
      });
    }
    await this.#transport.close();
    const left = await this.daemon.clear(this.namespace);
    if (left.length > 0) throw classified("internal", `left behind: ${left.join(", ")}`);
  }
}

export async function* once<T>(value: T): AsyncGenerator<T> {
  yield value;
}

export async function* each<T>(...values: T[]): AsyncGenerator<T> {
  yield* values;
}

/** Reads a stream to its end. @returns the last message. */
export async function drain<T>(stream: AsyncIterable<T>): Promise<T | undefined> {
  let last: T | undefined;
  for await (const each of stream) last = each;
  return last;
}
