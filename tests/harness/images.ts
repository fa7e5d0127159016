// Test images, made from Debian's busybox-static in the two archive forms clients bring: OCI layout and docker-archive.
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { type TarEntry, tar } from "./tar.ts";

/** The name archives give their image. */
export const IMAGE = "docker.io/library/busybox:test";

/** What an image says of how to run it; fields as in the OCI image configuration. */
export type ImageConfig = {
  readonly User?: string;
  readonly Env?: readonly string[];
  readonly Entrypoint?: readonly string[];
  readonly Cmd?: readonly string[];
  readonly WorkingDir?: string;
  readonly Labels?: Readonly<Record<string, string>>;
  readonly StopSignal?: string;
  readonly Volumes?: Readonly<Record<string, Record<string, never>>>;
  readonly ExposedPorts?: Readonly<Record<string, Record<string, never>>>;
};

export type ImageOptions = {
  readonly name?: string;
  readonly config?: ImageConfig;
  /** Layers above the busybox one, lowest first, as tar archives. */
  readonly layers?: readonly Uint8Array[];
  readonly compress?: "none" | "gzip" | "zstd";
  /** More at the top of the image's configuration, over what is made for it. */
  readonly extra?: Readonly<Record<string, unknown>>;
  /** Leaves the busybox layer away. */
  readonly bare?: boolean;
};

const GO_ARCH: Readonly<Record<string, string>> = { x64: "amd64", arm64: "arm64" };
const APPLETS =
  "sh ash cat echo ls ps id env printenv sleep true false kill mkdir rm touch stat df mount umount ip hostname seq head tail tee wc od dd sync nc grep sed awk tr sort uniq cut date uname pwd test expr vi top chmod chown ln readlink realpath cp mv find xargs md5sum sha256sum stty tty trap yes nohup setsid mknod whoami";

/** The tar archive of the busybox root file system: static binary, applet links, passwd and group files. */
export async function busyboxLayer(): Promise<Uint8Array> {
  const binary = await readFile("/bin/busybox");
  const folders = ["bin", "dev", "etc", "home", "proc", "root", "sys", "tmp", "usr", "var"];
  return tar([
    ...folders.map(
      (path): TarEntry => ({
        path: `${path}/`,
        type: "dir",
        mode: path === "tmp" ? 0o1777 : path === "root" ? 0o700 : 0o755,
      }),
    ),
    { path: "bin/busybox", data: binary, mode: 0o755 },
    ...APPLETS.split(" ").map(
      (name): TarEntry => ({ path: `bin/${name}`, type: "symlink", target: "busybox", mode: 0o777 }),
    ),
    {
      path: "etc/passwd",
      data: "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nuser:x:1000:1000:user:/home:/bin/sh\n",
    },
    { path: "etc/group", data: "root:x:0:\ndaemon:x:1:\nuser:x:1000:\nextra:x:1001:user\n" },
    { path: "etc/hostname", data: "busybox\n" },
  ]);
}

type Blob = { readonly mediaType: string; readonly digest: string; readonly size: number };
type Made = { readonly config: Uint8Array; readonly diffs: readonly Uint8Array[]; readonly name: string };

/** The sha256 digest of some bytes, with its `sha256:`. */
export function digestOf(bytes: Uint8Array): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

function json(value: unknown): Uint8Array {
  return Buffer.from(JSON.stringify(value));
}

async function make(options: ImageOptions): Promise<Made> {
  const diffs = [...(options.bare === true ? [] : [await busyboxLayer()]), ...(options.layers ?? [])];
  const config = json({
    architecture: GO_ARCH[process.arch] ?? process.arch,
    os: "linux",
    config: {
      Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
      Cmd: ["sh"],
      ...options.config,
    },
    rootfs: { type: "layers", diff_ids: diffs.map(digestOf) },
    history: diffs.map(() => ({ created: "2000-01-01T00:00:00Z", created_by: "test" })),
    ...options.extra,
  });
  return { config, diffs, name: options.name ?? IMAGE };
}

const LAYER = "application/vnd.oci.image.layer.v1.tar";
const COMPRESSORS = {
  none: { suffix: "", pack: (bytes: Uint8Array): Uint8Array => bytes },
  gzip: { suffix: "+gzip", pack: (bytes: Uint8Array): Uint8Array => Bun.gzipSync(new Uint8Array(bytes)) },
  zstd: { suffix: "+zstd", pack: (bytes: Uint8Array): Uint8Array => Bun.zstdCompressSync(bytes) },
} as const;

/** An OCI image layout, as a tar archive, with one image for this machine's platform. */
export async function ociArchive(options: ImageOptions = {}): Promise<Uint8Array<ArrayBuffer>> {
  const { config, diffs, name } = await make(options);
  const compressor = COMPRESSORS[options.compress ?? "gzip"];
  const blobs: TarEntry[] = [];
  const add = (mediaType: string, data: Uint8Array): Blob => {
    const digest = digestOf(data);
    const path = `blobs/${digest.replace(":", "/")}`;
    if (!blobs.some((blob) => blob.path === path)) blobs.push({ path, data });
    return { mediaType, digest, size: data.byteLength };
  };
  const manifest = add(
    "application/vnd.oci.image.manifest.v1+json",
    json({
      schemaVersion: 2,
      mediaType: "application/vnd.oci.image.manifest.v1+json",
      config: add("application/vnd.oci.image.config.v1+json", config),
      layers: diffs.map((diff) => add(`${LAYER}${compressor.suffix}`, compressor.pack(diff))),
    }),
  );
  const tag = name.slice(name.lastIndexOf(":") + 1);
  const index = {
    schemaVersion: 2,
    manifests: [
      { ...manifest, annotations: { "io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag } },
    ],
  };
  return tar([
    { path: "oci-layout", data: '{"imageLayoutVersion":"1.0.0"}' },
    { path: "index.json", data: json(index) },
    { path: "blobs/", type: "dir" },
    { path: "blobs/sha256/", type: "dir" },
    ...blobs,
  ]);
}

/** What `docker save` writes: manifest.json, the configuration, a tar per layer. */
export async function dockerArchive(options: ImageOptions = {}): Promise<Uint8Array<ArrayBuffer>> {
  const { config, diffs, name } = await make(options);
  const configPath = `${digestOf(config).slice(7)}.json`;
  const layers = diffs.map((diff): TarEntry => ({ path: `${digestOf(diff).slice(7)}/layer.tar`, data: diff }));
  return tar([
    { path: configPath, data: config },
    ...layers,
    {
      path: "manifest.json",
      data: json([{ Config: configPath, RepoTags: [name], Layers: layers.map((layer) => layer.path) }]),
    },
  ]);
}
