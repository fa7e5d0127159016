import type { MessageInitShape } from "@bufbuild/protobuf";
import { classified } from "@stevedore/base";
import type {
  AnyValue,
  MessageStream,
  RegistryCredentials,
  TransferProgress,
  TransferReference,
  TransferStore,
} from "@stevedore/core";
import type { Platform } from "@stevedore/oci/platform";
import type { PlatformSchema, Platform as WirePlatform } from "@stevedore/wire/gen/containerd/types/platform_pb";

import {
  type ImageReference,
  type ImageReferenceSchema,
  type ImageStore,
  ImageStoreSchema,
} from "@stevedore/wire/gen/light/containerd/types/transfer/imagestore_pb";
import { ProgressSchema } from "@stevedore/wire/gen/light/containerd/types/transfer/progress_pb";
import {
  AuthRequestSchema,
  AuthResponseSchema,
  AuthType,
} from "@stevedore/wire/gen/light/containerd/types/transfer/registry_pb";
import { descriptorFromProto, descriptorToProto } from "./descriptors.ts";
import { packed, unpacked } from "./packed.ts";

/** A platform as a message. */
export function platformToProto(platform: Platform): MessageInitShape<typeof PlatformSchema> {
  const { os, architecture, variant = "", osVersion = "", osFeatures = [] } = platform;
  return { os, architecture, variant, osVersion, osFeatures: [...osFeatures] };
}

/** A platform out of a message. */
export function platformFromProto(platform: WirePlatform): Platform {
  const { os, architecture, variant, osVersion, osFeatures } = platform;
  return {
    os,
    architecture,
    ...(variant === "" ? {} : { variant }),
    ...(osVersion === "" ? {} : { osVersion }),
    ...(osFeatures.length === 0 ? {} : { osFeatures: [...osFeatures] }),
  };
}

/** An end of a transfer that is the image store, as an Any. */
export function storeToAny(store: Omit<TransferStore, "kind">): AnyValue {
  return packed(ImageStoreSchema, {
    name: store.name,
    labels: { ...store.labels },
    platforms: store.platforms.map(platformToProto),
    allMetadata: store.allMetadata,
    manifestLimit: store.manifestLimit,
    extraReferences: store.references.map(referenceToProto),
    unpacks: store.unpacks.map(({ platform, snapshotter }) => ({ platform: platformToProto(platform), snapshotter })),
  });
}

function referenceToProto(reference: TransferReference): MessageInitShape<typeof ImageReferenceSchema> {
  const { name, isPrefix, allowOverwrite, addDigest, skipNamedDigest } = reference;
  return { name, isPrefix, allowOverwrite, addDigest, skipNamedDigest };
}

/** The image store as an end of a transfer. */
export function storeFromProto(store: ImageStore): TransferStore {
  return {
    kind: "store",
    name: store.name,
    labels: { ...store.labels },
    platforms: store.platforms.map(platformFromProto),
    allMetadata: store.allMetadata,
    manifestLimit: store.manifestLimit,
    references: store.extraReferences.map(referenceFromProto),
    unpacks: store.unpacks.map(({ platform, snapshotter }) => ({
      platform: platform === undefined ? { os: "", architecture: "" } : platformFromProto(platform),
      snapshotter,
    })),
  };
}

function referenceFromProto(reference: ImageReference): TransferReference {
  const { name, isPrefix, allowOverwrite, addDigest, skipNamedDigest } = reference;
  return { name, isPrefix, allowOverwrite, addDigest, skipNamedDigest };
}

/** What a transfer tells of itself, as an Any. */
export function progressToAny(progress: TransferProgress): AnyValue {
  const { event, name, parents = [], progress: done = 0, total = 0, descriptor } = progress;
  return packed(ProgressSchema, {
    event,
    name,
    parents: [...parents],
    progress: BigInt(done),
    total: BigInt(total),
    ...(descriptor === undefined ? {} : { desc: descriptorToProto(descriptor) }),
  });
}

/** @throws invalid-argument for an Any that is no progress */
export function progressFromAny(any: AnyValue): TransferProgress {
  const { event, name, parents, progress, total, desc } = unpacked(ProgressSchema, any);
  return {
    event,
    name,
    parents,
    progress: Number(progress),
    total: Number(total),
    ...(desc === undefined ? {} : { descriptor: descriptorFromProto(desc) }),
  };
}

/**
 * Asks the client at the other end of a stream for credentials. One question at a time: the answers carry no name.
 *
 * @throws unauthenticated when the client has gone without an answer; invalid-argument for an answer that is none
 */
export function askCredentials(
  stream: MessageStream,
  reference: string,
): (host: string) => Promise<RegistryCredentials> {
  let last: Promise<unknown> = Promise.resolve();
  const ask = async (host: string): Promise<RegistryCredentials> => {
    await stream.send(packed(AuthRequestSchema, { host, reference }));
    const answer = await stream.receive();
    if (answer === undefined) {
      throw classified("unauthenticated", `ask the client for credentials of ${host}: it has closed the stream`);
    }
    const { authType, username, secret } = unpacked(AuthResponseSchema, answer);
    switch (authType) {
      case AuthType.CREDENTIALS:
        return { kind: "password", username, secret };
      case AuthType.REFRESH:
        // Clients without credentials send an empty one.
        return secret === "" ? { kind: "none" } : { kind: "refresh-token", secret };
      case AuthType.HEADER:
        return { kind: "header", value: secret };
      case AuthType.NONE:
        return { kind: "none" };
      default:
        throw classified("invalid-argument", `credentials of ${host} have the unknown type ${String(authType)}`);
    }
  };
  return async (host) => {
    const mine = last.then(() => ask(host));
    last = mine.catch(() => undefined);
    return mine;
  };
}

/** Answers the daemon's questions for credentials until the stream ends. */
export async function answerCredentials(
  stream: MessageStream,
  credentialsOf: (host: string, reference: string) => Promise<RegistryCredentials>,
): Promise<void> {
  for (let any = await stream.receive(); any !== undefined; any = await stream.receive()) {
    const { host, reference } = unpacked(AuthRequestSchema, any);
    const found = await credentialsOf(host, reference);
    await stream.send(packed(AuthResponseSchema, credentialsMessage(found)));
  }
}

function credentialsMessage(found: RegistryCredentials): MessageInitShape<typeof AuthResponseSchema> {
  switch (found.kind) {
    case "none":
      // As containerd's client says it: a token, and none.
      return { authType: AuthType.REFRESH };
    case "password":
      return { authType: AuthType.CREDENTIALS, username: found.username, secret: found.secret };
    case "refresh-token":
      return { authType: AuthType.REFRESH, secret: found.secret };
    case "header":
      return { authType: AuthType.HEADER, secret: found.value };
  }
}
