import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Descriptor as CoreDescriptor } from "@stevedore/core";
import type { Descriptor, DescriptorSchema } from "@stevedore/wire/gen/containerd/types/descriptor_pb";

/** A descriptor as a message. */
export function descriptorToProto(descriptor: CoreDescriptor): MessageInitShape<typeof DescriptorSchema> {
  return {
    mediaType: descriptor.mediaType,
    digest: descriptor.digest,
    size: BigInt(descriptor.size),
    annotations: { ...descriptor.annotations },
  };
}

/** A descriptor out of a message; annotations only when there are some. */
export function descriptorFromProto(descriptor: Descriptor): CoreDescriptor {
  const { mediaType, digest, size, annotations } = descriptor;
  return {
    mediaType,
    digest,
    size: Number(size),
    ...(Object.keys(annotations).length === 0 ? {} : { annotations: { ...annotations } }),
  };
}
