import type { RequestContext } from "@stevedore/base";
import type { Platform, PlatformMatcher } from "@stevedore/oci/platform";
import type { Applier } from "./diff.ts";
import type { Descriptor } from "./images.ts";
import type { Labels } from "./labels.ts";

/** One thing that a transfer tells of itself. */
export interface TransferProgress {
  /** What happened: `waiting`, `downloading`, `complete`, `saved` …, or a sentence about the whole when `name` is "". */
  readonly event: string;
  /** Of the blob (its ingest's ref) or the image. */
  readonly name: string;
  /** Names of what it belongs to, where that was told before. */
  readonly parents?: readonly string[];
  /** Bytes. */
  readonly progress?: number;
  /** Bytes. */
  readonly total?: number;
  readonly descriptor?: Descriptor;
}

/** What a client gives to log in to a host. */
export type RegistryCredentials =
  | { readonly kind: "none" }
  | { readonly kind: "password"; readonly username: string; readonly secret: string }
  | { readonly kind: "refresh-token"; readonly secret: string }
  /** The value of an Authorization header. */
  | { readonly kind: "header"; readonly value: string };

/** How a client wants its registry to be spoken to. */
export interface RegistryAccess {
  /** Asked for each host that wants to know who it is; absent: nobody to ask. */
  readonly credentials?: (host: string, signal: AbortSignal) => Promise<RegistryCredentials>;
  readonly headers: Readonly<Record<string, string>>;
  /** Folder with one folder of settings for each host; "" for the daemon's own. */
  readonly hostDir: string;
  /** `http` or `https`; "" to decide by the host. */
  readonly defaultScheme: string;
  /** Takes lines about each request, where the client asked for them. */
  readonly debug?: { readonly headers: boolean; readonly trace: boolean; readonly write: (line: string) => void };
}

/** A reference within a registry, as source or destination of a transfer. */
export interface TransferRegistry extends RegistryAccess {
  readonly kind: "registry";
  readonly reference: string;
}

/** A name for images that come without one; see {@link TransferStore.references}. */
export interface TransferReference {
  readonly name: string;
  /** `name` is what a tag or digest is put behind, or what a full name must begin with. */
  readonly isPrefix: boolean;
  /** A full name that does not begin with it is taken as well. */
  readonly allowOverwrite: boolean;
  /** Also name it by digest. */
  readonly addDigest: boolean;
  /** With {@link addDigest}, only what has no other name. */
  readonly skipNamedDigest: boolean;
}

/** A platform to unpack for. */
export interface TransferUnpack {
  readonly platform: Platform;
  /** "" for the default. */
  readonly snapshotter: string;
}

/** The image store, as source or destination of a transfer. */
export interface TransferStore {
  readonly kind: "store";
  readonly name: string;
  readonly labels: Labels;
  /** What is taken of an index; none: everything. */
  readonly platforms: readonly Platform[];
  /** Manifests and configs of other platforms are taken too, without their layers. */
  readonly allMetadata: boolean;
  /** Most manifests of an index; 0: all. */
  readonly manifestLimit: number;
  readonly references: readonly TransferReference[];
  readonly unpacks: readonly TransferUnpack[];
  /** Documents alone will do: an index that has nothing for the platforms is no error then. Absent: it is one. */
  readonly documentsOnly?: boolean;
}

/** An archive that a client sends. */
export interface TransferImport {
  readonly kind: "import";
  readonly bytes: AsyncIterable<Uint8Array>;
  /** "" to look at the bytes; otherwise they are a plain tar. */
  readonly mediaType: string;
  readonly forceCompress: boolean;
}

/** Where an archive for a client goes. */
export interface TransferExport {
  readonly kind: "export";
  /** Resolves when there is room for more. @throws unavailable when the client is gone */
  readonly write: (bytes: Uint8Array) => Promise<void>;
  /** None follows. */
  readonly close: () => void;
  readonly mediaType: string;
  /** None: the host's. */
  readonly platforms: readonly Platform[];
  readonly allPlatforms: boolean;
  readonly skipCompatibilityManifest: boolean;
  readonly skipNonDistributable: boolean;
}

/** What a transfer is between. */
export type TransferEnd = TransferRegistry | TransferStore | TransferImport | TransferExport;

/** Moves images between registries, the store and archives. */
export interface Transferrer {
  /**
   * Moves what `source` names to `destination`: registry → store pulls, store → registry pushes, import → store imports,
   * store → export exports, store → store tags. Makes a lease where the context has none. Image records are written last:
   * nothing partial is ever an image. A transfer that was broken off goes on where it was.
   *
   * @throws not-implemented for other pairs; invalid-argument for documents that are none; failed-precondition or
   *   data-loss for bytes that are not what their digest says; not-found for what is not there
   */
  transfer(
    context: RequestContext,
    source: TransferEnd,
    options: { readonly destination: TransferEnd; readonly onProgress?: (progress: TransferProgress) => void },
  ): Promise<void>;
}

/** What a reference stands for. */
export interface ResolvedReference {
  /** The reference as the image's name. */
  readonly name: string;
  readonly descriptor: Descriptor;
}

/** Talks to the registries of one transfer; credentials and tokens live as long as it does. */
export interface RegistrySession extends AsyncDisposable {
  /** @throws not-found; unauthenticated; unavailable. Each lists the hosts that were tried, and why not. */
  resolve(reference: string, signal: AbortSignal): Promise<ResolvedReference>;
  /**
   * A blob's or manifest's bytes from `offset` on. Digest and size are the reader's to check.
   *
   * @throws as {@link resolve}; out-of-range when the host cannot begin at `offset`
   */
  fetch(
    reference: string,
    descriptor: Descriptor,
    options: {
      readonly offset: number;
      readonly signal: AbortSignal;
      /** Where a layer that registries may not hand out is, as its descriptor says; asked without credentials. */
      readonly urls?: readonly string[];
    },
  ): AsyncIterable<Uint8Array>;
  /**
   * Stores a blob or manifest in the reference's repository. A manifest gets the reference's tag when `tag` is set.
   *
   * @returns "exists" when the registry had it (or could mount it) and nothing was sent.
   */
  push(reference: string, descriptor: Descriptor, options: PushOptions): Promise<"pushed" | "exists">;
}

/** What is pushed. */
export interface PushOptions {
  /** The bytes from `offset` on; may be called again when a try failed. */
  readonly open: (offset: number) => AsyncIterable<Uint8Array>;
  /** Repositories of the same host that had the blob at some time, without the host. */
  readonly mountFrom: readonly string[];
  /** Give the manifest the reference's tag; otherwise it is stored by its digest alone. */
  readonly tag: boolean;
  readonly signal: AbortSignal;
  /** Bytes sent so far. */
  readonly onProgress?: (sent: number) => void;
}

/** Opens sessions with registries; the registry client of the daemon. */
export type OpenRegistry = (context: RequestContext, access: RegistryAccess) => Promise<RegistrySession>;

/** What an image verifier thinks of an image. */
export interface ImageJudgement {
  readonly ok: boolean;
  readonly reason: string;
}

/** Asked before an image is pulled. */
export interface ImageVerifier {
  /** @throws when there is no judgement; the pull is blocked then as well. */
  verify(context: RequestContext, name: string, descriptor: Descriptor): Promise<ImageJudgement>;
}

/** What the daemon can unpack for. */
export interface UnpackPlatform {
  readonly platform: PlatformMatcher;
  /** The snapshotter's name. */
  readonly snapshotter: string;
  readonly applier: Applier;
}
