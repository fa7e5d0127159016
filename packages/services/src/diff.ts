import { anyMapFromProto } from "@stevedore/convert/any";
import { descriptorFromProto, descriptorToProto } from "@stevedore/convert/descriptors";
import { mountFromProto } from "@stevedore/convert/mounts";
import { optionalDateFromProto } from "@stevedore/convert/timestamps";
import type { Differ } from "@stevedore/core";
import type { Diff } from "@stevedore/wire/gen/containerd/services/diff/v1/diff_pb";
import type { ServiceImpl } from "@stevedore/wire/rpc/index";
import { requestContext, required } from "./request.ts";

/** The diff service. */
export function diffService({ diff }: { readonly diff: Differ }): ServiceImpl<typeof Diff> {
  return {
    apply: async ({ diff: layer, mounts, payloads, syncFs }, call) => {
      const applied = await diff.apply(requestContext(call), descriptorFromProto(required(layer, "descriptor")), {
        mounts: mounts.map(mountFromProto),
        payloads: anyMapFromProto(payloads),
        syncFs,
      });
      return { applied: descriptorToProto(applied) };
    },
    diff: async ({ left, right, mediaType, ref, labels, sourceDateEpoch }, call) => {
      const epoch = optionalDateFromProto(sourceDateEpoch);
      const made = await diff.compare(requestContext(call), left.map(mountFromProto), {
        upper: right.map(mountFromProto),
        mediaType,
        ref,
        labels,
        ...(epoch === undefined ? {} : { sourceDateEpoch: epoch }),
      });
      return { diff: descriptorToProto(made) };
    },
  };
}
