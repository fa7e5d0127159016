import { descriptorFromProto, descriptorToProto } from "@stevedore/convert/descriptors";
import { mountToProto } from "@stevedore/convert/mounts";
import { timestampToProto } from "@stevedore/convert/timestamps";
import type { Differ } from "@stevedore/core";
import type { Transport } from "@stevedore/wire/rpc/index";
import { callOptions, lazyClient, present } from "./call.ts";

/** The diff service of a daemon. */
export function diffProxy(transport: Transport): Differ {
  const diff = lazyClient(
    transport,
    async () => (await import("@stevedore/wire/gen/light/containerd/services/diff/v1/diff_pb")).Diff,
  );
  return {
    apply: async (context, descriptor, { mounts, payloads = {}, syncFs = false }) => {
      const { applied } = await (await diff()).apply(
        {
          diff: descriptorToProto(descriptor),
          mounts: mounts.map(mountToProto),
          payloads: { ...payloads },
          syncFs,
        },
        callOptions(context),
      );
      return descriptorFromProto(present(applied, "descriptor"));
    },
    compare: async (context, lower, { upper, mediaType, ref, labels, sourceDateEpoch }) => {
      const answer = await (await diff()).diff(
        {
          left: lower.map(mountToProto),
          right: upper.map(mountToProto),
          mediaType,
          ref,
          labels: { ...labels },
          ...(sourceDateEpoch === undefined ? {} : { sourceDateEpoch: timestampToProto(sourceDateEpoch) }),
        },
        callOptions(context),
      );
      return descriptorFromProto(present(answer.diff, "descriptor"));
    },
  };
}
