import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Image as CoreImage, NewImage } from "@stevedore/core";
import type { Image, ImageSchema } from "@stevedore/wire/gen/containerd/services/images/v1/images_pb";
import { descriptorFromProto, descriptorToProto } from "./descriptors.ts";
import { dateFromProto, optionalDateFromProto, timestampToProto } from "./timestamps.ts";

/** An image as a message; times that are not known are left out. */
export function imageToProto(
  image: NewImage & Partial<Pick<CoreImage, "updatedAt">>,
): MessageInitShape<typeof ImageSchema> {
  return {
    name: image.name,
    labels: { ...image.labels },
    target: descriptorToProto(image.target),
    ...(image.createdAt === undefined ? {} : { createdAt: timestampToProto(image.createdAt) }),
    ...(image.updatedAt === undefined ? {} : { updatedAt: timestampToProto(image.updatedAt) }),
  };
}

/** A target that is missing becomes an empty descriptor; stores refuse it. */
export function imageFromProto(image: Image): CoreImage {
  return {
    name: image.name,
    labels: { ...image.labels },
    target: image.target === undefined ? { mediaType: "", digest: "", size: 0 } : descriptorFromProto(image.target),
    createdAt: dateFromProto(image.createdAt),
    updatedAt: dateFromProto(image.updatedAt),
  };
}

/** An image as a client asks for it: the creation time only if it set one. */
export function newImageFromProto(image: Image): NewImage {
  const { name, labels, target } = imageFromProto(image);
  const createdAt = optionalDateFromProto(image.createdAt);
  return { name, labels, target, ...(createdAt === undefined ? {} : { createdAt }) };
}
