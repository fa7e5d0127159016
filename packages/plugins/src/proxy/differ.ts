import { anyMapToProto } from "@stevedore/convert/any";
import { descriptorFromProto, descriptorToProto } from "@stevedore/convert/descriptors";
import { mountToProto } from "@stevedore/convert/mounts";
import { timestampToProto } from "@stevedore/convert/timestamps";
import type { Differ } from "@stevedore/core";
import { Diff } from "@stevedore/wire/gen/containerd/services/diff/v1/diff_pb";
import { createClient, type Transport } from "@stevedore/wire/rpc/index";
import { callOptions, present } from "./request.ts";

/** The differ of another process. The transport stays the caller's. */
export function createProxyDiffer(options: { readonly transport: Transport }): Differ {
  const client = createClient(Diff, options.transport);
  return {
    apply: async (context, descriptor, { mounts, payloads = {}, syncFs = false }) => {
      const request = {
        diff: descriptorToProto(descriptor),
        mounts: mounts.map(mountToProto),
        payloads: anyMapToProto(payloads),
        syncFs,
      };
      return descriptorFromProto(present((await client.apply(request, callOptions(context))).applied, "descriptor"));
    },
    compare: async (context, lower, { upper, mediaType, ref, labels, sourceDateEpoch }) => {
      const request = {
        left: lower.map(mountToProto),
        right: upper.map(mountToProto),
        mediaType,
        ref,
        labels: { ...labels },
        ...(sourceDateEpoch === undefined ? {} : { sourceDateEpoch: timestampToProto(sourceDateEpoch) }),
      };
      return descriptorFromProto(present((await client.diff(request, callOptions(context))).diff, "descriptor"));
    },
  };
}
