import type { Version } from "@stevedore/wire/gen/containerd/services/version/v1/version_pb";
import type { ServiceImpl } from "@stevedore/wire/rpc/index";

/** The version service: what was built. */
export function versionService(build: {
  readonly version: string;
  readonly revision: string;
}): ServiceImpl<typeof Version> {
  return { version: async () => ({ version: build.version, revision: build.revision }) };
}
