import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Mount as CoreMount } from "@stevedore/core";
import type { Mount, MountSchema } from "@stevedore/wire/gen/containerd/types/mount_pb";

/** A mount as a message. */
export function mountToProto({ type, source, target, options }: CoreMount): MessageInitShape<typeof MountSchema> {
  return { type, source, target, options: [...options] };
}

/** A mount out of a message. */
export function mountFromProto({ type, source, target, options }: Mount): CoreMount {
  return { type, source, target, options: [...options] };
}
